"""What small trainings of a publication say of its large ones: the large rows predicted from the
other publications alone, and from these with the publication's own small rows.

    python experiments/evidence/ladders.py      # ladders.csv and a table; two minutes of one core

The model has not seen the publication; its spreads are those of the others. The small rows come in
as one's own trainings do (`--evidence`). The last ladders have the shipped short trainings as small
rows: of networks of the published rows at a thirty-second of the width, after 262,144 tokens.

Expected of published ladders, written before the first run: in most publications the error of the
large rows falls by a third or more once trainings of a third of their size are known, and their
intervals hold 80 % or more. A training of a tenth of the size (the 60M rows of 2604.03444) says
little, and may mislead. Expected of short trainings, written when the form of the discrepancy was
chosen and before its spreads were fitted without each publication: a log score a little better than
without them (0.05 to 0.1), as many pairs, no smaller error. Expected when the reliability of own rows
became its posterior: narrower intervals, and no more outside than one in ten.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from left_out import summary
from pairs import as_new_publication, predicted_pairs
from short_trainings import as_small_rows, short_trainings

from flashnas.loss.load import rows_of, shipped_model
from flashnas.loss.model import FullLoss
from flashnas.loss.own import as_own, with_own
from flashnas.observations.losses import ObservedLoss, groups_without_repeats
from flashnas.observations.read_losses import read_published

HERE = Path(__file__).parent
Selector = Callable[[ObservedLoss], bool]


@dataclass(frozen=True)
class Ladder:
    """The rows of a publication that are known, and those that are predicted."""

    source: str
    name: str
    small: Selector
    large: Selector


def of(*groups: str) -> Selector:
    """Rows of these groups."""
    return lambda row: row.group in groups


def sized(low: float, high: float, *groups: str) -> Selector:
    """Rows of so many parameters, of these groups."""
    return lambda row: low < row.params < high and row.group in groups


OLMO = of("olmo_600m", "olmo_760m")
MESA = of("mesa_1b_15b", "mesa_400m_50b")
MAMBA3 = sized(8e8, 2e9, "mamba3_880m_100b", "mamba3_1.5b_100b")
OLMOE3 = of("olmoe3_hybrid_275m_cx8", "olmoe3_hybrid_480m_cx4", "olmoe3_hybrid_480m_cx8")
LADDERS = [
    Ladder("2604.03444", "60M", of("olmo_60m"), OLMO),
    Ladder("2604.03444", "60M, 100M", of("olmo_60m", "olmo_100m"), OLMO),
    Ladder("2604.03444", "60M to 370M", of("olmo_60m", "olmo_100m", "olmo_370m"), OLMO),
    Ladder("2604.03444", "370M", of("olmo_370m"), OLMO),
    Ladder("2506.05233", "145M", of("mesa_145m_15b"), MESA),
    Ladder("2506.05233", "145M, 400M", of("mesa_145m_15b", "mesa_400m_15b"), MESA),
    Ladder("2603.15569", "180M", of("mamba3_180m_100b"), MAMBA3),
    Ladder("2603.15569", "180M, 440M", of("mamba3_180m_100b", "mamba3_440m_100b"), MAMBA3),
    Ladder("allenai/OLMo-core", "275M, 4B", of("olmoe3_hybrid_275m_cx1"), OLMOE3),
    Ladder(
        "allenai/OLMo-core",
        "275M, 4B and 8B",
        of("olmoe3_hybrid_275m_cx1", "olmoe3_hybrid_275m_cx2"),
        OLMOE3,
    ),
    Ladder("2501.00663", "340M", of("titans_340m_15b"), of("titans_760m_30b")),
    Ladder("2405.21060", "350M, 7B", of("mamba2_350m_7b_ratio"), of("mamba2_2.7b_300b")),
    Ladder("2511.18890", "500M", of("nf_500m_100b"), of("nf_latency_100b")),
]


MIN_PAIRS = 3  # of short trainings of one publication


def short_ladders(rows: Sequence[ObservedLoss], small: Sequence[ObservedLoss]) -> list[Ladder]:
    """Of each publication with at least MIN_PAIRS short trainings: these, and the rows in full."""
    trained = zip(rows, short_trainings(rows), strict=True)
    full = {row.place for row, short in trained if short is not None}
    groups: dict[str, list[str]] = {}
    for row in small:
        groups.setdefault(row.source, []).append(row.group)
    return [
        Ladder(source, "short trainings", of(*own), lambda row: row.place in full)
        for source, own in groups.items()
        if len(own) >= MIN_PAIRS
    ]


def informed(model: FullLoss, small: Sequence[ObservedLoss]) -> FullLoss:
    """The model with small rows as those of one's own publication."""
    return with_own(model, rows_of(as_own(small), model.law))


def figures(ladder: Ladder, rows: Sequence[ObservedLoss]) -> dict[str, object]:
    """One line of the table."""
    own = [row for row in rows if row.source == ladder.source]
    small, large = ([row for row in own if pick(row)] for pick in (ladder.small, ladder.large))

    def ratio(size: str) -> float:
        values = [statistics.median(getattr(row, size) for row in part) for part in (large, small)]
        return float(f"{values[0] / values[1]:.3g}")

    line: dict[str, object] = {
        "publication": ladder.source,
        "known": ladder.name,
        "times the size": ratio("params"),
        "times the tokens": ratio("tokens"),
    }
    alone = shipped_model(ladder.source)
    for word, model in (("alone", alone), ("with them", informed(alone, small))):
        pairs = predicted_pairs(large, lambda _, model=model: model)
        found = summary(large, pairs)
        line[f"right, {word}"] = f"{found['right']:g} of {found['pairs']}"
        line[f"RMSE, {word}"] = round(found["rmse_nats"], 4)
        line[f"inside, {word}"] = round(found["coverage"], 2)
        line[f"log score, {word}"] = round(found["log_score"], 2)
        line[f"half-width, {word}"] = round(found["half_width"], 3)
        errors = [abs(pair.published - pair.predicted) for pair in pairs]
        line[f"error, {word}"] = round(statistics.median(errors), 4)
        line[f"regret, {word}"] = round(regret(model, large), 4)
    return line


def regret(model: FullLoss, rows: Sequence[ObservedLoss]) -> float:
    """What the row with the lowest mean loses to the best of its group, the mean over groups."""
    lost = []
    for members in groups_without_repeats(rows).values():
        group = [rows[index] for index in members]
        mean = model.predict(as_new_publication(model, group)).mean
        lost.append(group[int(mean.argmin())].nats - min(row.nats for row in group))
    return statistics.fmean(lost)


def gain_of(table: pd.DataFrame) -> str:
    """Of the log score, publications (or operators) equal."""
    scores = table.groupby("publication", sort=False)[
        ["log score, alone", "log score, with them"]
    ].mean()
    gain = scores["log score, with them"] - scores["log score, alone"]
    return f"{gain.mean():+.2f} +- {gain.sem():.2f}"


if __name__ == "__main__":
    rows = read_published()
    small = as_small_rows(rows)
    parts = {
        "published ladders": [figures(ladder, rows) for ladder in LADDERS],
        "short trainings": [
            figures(ladder, [*rows, *small]) for ladder in short_ladders(rows, small)
        ],
    }
    table = pd.DataFrame([line for part in parts.values() for line in part])
    table.to_csv(HERE / "ladders.csv", index=False)
    print(table.to_string(index=False))
    for name, part in parts.items():
        print(f"gain of the log score, {name}: {gain_of(pd.DataFrame(part))}")
