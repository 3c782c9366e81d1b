"""How uncertain is an operator that nobody has trained? Each operator of each publication is taken for
one: the publication, and all rows of others with the operator, are left out, the spreads are fitted
anew, and the differences to networks with another share of it are predicted.

    python experiments/evidence/unknown.py    # unknown.csv and a table; a minute of one core

One line for each standard deviation, in nats, that an unknown operator has on top (`rare` in
flashnas/loss/model.py): the one that ships follows from the log score, publications equal.

Expected, written before the first run: 0.05, because 0.2.0 expected to learn 0.013 nats of Kimi delta
attention where 0.06 were to be had.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from fitting import ffn_rows, fit_spreads
from left_out import summary
from pairs import Pair, predicted_pairs

from flashnas.loss import mix, model
from flashnas.loss.composition import Rows
from flashnas.loss.load import loss_model, rows_of
from flashnas.observations.losses import ObservedLoss, dense_twin
from flashnas.observations.read_losses import read_published

HERE = Path(__file__).parent
SDS = (0.015, 0.03, 0.05, 0.07, 0.1)


def share_of(kind: str, row: ObservedLoss) -> float:
    """Of an operator, among the token mixers of a row."""
    kinds = [spec.kind for spec in row.specs if spec.mixes_tokens]
    return kinds.count(kind) / max(1, len(kinds))


@contextlib.contextmanager
def taken_for_unknown(kind: str, sd: float) -> Iterator[None]:
    """While it lasts, no publication has an operator, and such ones have this standard deviation."""
    kinds, shipped = mix.KINDS, model.SILENT_SDS["rare"]
    mix.KINDS = tuple(name for name in kinds if name != kind)
    model.SILENT_SDS["rare"] = sd
    try:
        yield
    finally:
        mix.KINDS, model.SILENT_SDS["rare"] = kinds, shipped


def pairs_of(kind: str, source: str, rows: Sequence[ObservedLoss], sd: float) -> list[Pair]:
    """The pairs of a publication that differ in their share of an operator that nobody has trained."""
    with taken_for_unknown(kind, sd):
        law = loss_model().law
        others = [
            dense_twin(row) for row in rows if row.source != source and not share_of(kind, row)
        ]
        known = Rows.joined(rows_of(others, law), ffn_rows(law))
        found = model.FullLoss(known, fit_spreads(known, law), law)
        own = [row if row.source == source else None for row in rows]
        there = [row for row in own if row is not None]
        places = [place for place, row in enumerate(own) if row is not None]
        return [
            Pair(places[p.one], places[p.other], p.published, p.predicted, p.sd, p.log_score)
            for p in predicted_pairs(there, lambda _: found)
            if share_of(kind, there[p.one]) != share_of(kind, there[p.other])
        ]


if __name__ == "__main__":
    rows, lines = read_published(), []
    kinds = {(row.source, spec.kind) for row in rows for spec in row.specs if spec.mixes_tokens}
    for sd in SDS:
        pairs = [
            pair for source, kind in sorted(kinds) for pair in pairs_of(kind, source, rows, sd)
        ]
        found = summary(rows, pairs)
        names = ("pairs", "right", "rmse_nats", "coverage", "half_width", "log_score")
        line = {"sd": sd, **{name: found[name] for name in names}}
        lines.append({**line, "log_score, equal": found["publications"]["log_score"]})
        print(pd.DataFrame(lines[-1:]).round(3).to_string(index=False, header=sd == SDS[0]))
    pd.DataFrame(lines).round(4).to_csv(HERE / "unknown.csv", index=False)
