"""Which form the model of the full loss has: each publication is left out in turn, and spreads and form
are chosen without it.

    python experiments/evidence/forms.py    # a table; four minutes of one core

The forms are nested, from that of 0.2.0 down to size and shape alone, and were written down before
any was scored. The rule: the form with the fewest parameters (spreads, effects, and one for
reliabilities) whose left-out log score, publications equal, is within one standard error of the
best. The last line has the figures of a model whose form was chosen in this way without the
publication that it predicts.

Expected before the first run: the slopes of gated delta rules and the second residual process go,
because each gained less than its standard error when it came; the residual process and the
reliabilities stay.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from fitting import COMMON, FULL, OWN, PARTS, Form, ffn_rows, fit_law, fit_spreads, read_shapes
from left_out import summary

from flashnas.loss.composition import Law, Rows
from flashnas.loss.load import fitted, rows_of
from flashnas.loss.model import FullLoss
from flashnas.loss.publications import Pair, log_density, predicted_pairs
from flashnas.observations.losses import dense_twin
from flashnas.observations.read_losses import read_published

EFFECTS = ("mixed", "qk_norm", "window", "ffn")
LAW = fit_law(read_shapes())
OF_EXPERTS = Law(**fitted()["law"])
TRAININGS = read_published()
FFN = ffn_rows(LAW)
ROWS = Rows.joined(rows_of([dense_twin(row) for row in TRAININGS], LAW), FFN)


def form(*effects: str, own: Sequence[str] = (), less: Sequence[str] = ()) -> Form:
    """A form with these effects, those of `own` also between publications, without the parts `less`.
    Effects of the mix have one spread."""
    spreads = {name: COMMON[name] if name == "law" else "effect" for name in ("law", *effects)}
    parts = tuple(part for part in PARTS if part not in less)
    return Form(spreads, {name: OWN[name] for name in own}, parts)


ONE = ("own_residual",)
FORMS = {
    "that of 0.2.0, with QK-norm": FULL,
    "no slopes of gated delta rules": dataclasses.replace(
        FULL, common={name: spread for name, spread in COMMON.items() if spread != "slope"}
    ),
    "one residual process": form(*EFFECTS, "gated_delta", "edge", own=tuple(OWN), less=ONE),
    "effects alike in publications": form(*EFFECTS, "gated_delta", "edge", own=("law",), less=ONE),
    "no effect of gated delta rules": form(*EFFECTS, "edge", own=("law",), less=ONE),
    "the law alike in publications": form(*EFFECTS, "edge", less=ONE),
    "no effect of the order": form(*EFFECTS, less=ONE),
    "no effect of kinds": form(*EFFECTS, less=(*ONE, "kind")),
    "no residual process": form(*EFFECTS, less=(*ONE, "residual")),
    "no reliabilities": dataclasses.replace(form(*EFFECTS, less=ONE), robust=False),
    "law": form(less=(*ONE, "kind", "residual")),
}


def parameters(of: Form) -> int:
    return len(of.names) + len(of.common) + len(of.own) + of.robust


SOURCES = tuple(dict.fromkeys(ROWS.publication))


@functools.cache
def model_without(name: str, *sources: str) -> FullLoss:
    """Fitted without these publications."""
    known = ROWS.take(np.flatnonzero(~np.isin(ROWS.publication.astype(str), sources)))
    return FullLoss(known, fit_spreads(known, LAW, FORMS[name]), OF_EXPERTS)


def pairs_of(name: str, source: str, *others: str) -> list[tuple[str, Pair]]:
    """Group and pair of each two rows of a publication, by a model without it and `others`."""
    model = model_without(name, *sorted((source, *others)))
    if rows := [row for row in TRAININGS if row.source == source]:
        return [(rows[pair.one].group, pair) for pair in predicted_pairs(rows, lambda _: model)]
    table = dataclasses.replace(FFN, publication=np.full(len(FFN), model.publication, object))
    prediction, found = model.predict(table), []
    for one, other in itertools.combinations(range(len(FFN)), 2):
        if FFN.level[one] == FFN.level[other]:
            gap = FFN.nats[one] - FFN.nats[other]
            mean, sd = (
                prediction.mean[one] - prediction.mean[other],
                prediction.sd_to(other, 2)[one],
            )
            score = log_density(prediction, gap, one, other, trainings=2)
            found.append((FFN.level[one], Pair(one, other, gap, mean, sd, score)))
    return found


def score(name: str, source: str, *others: str) -> float:
    """The log score of a publication, groups equal."""
    groups: dict[str, list[float]] = {}
    for group, pair in pairs_of(name, source, *others):
        groups.setdefault(group, []).append(pair.log_score)
    return float(np.mean([np.mean(scores) for scores in groups.values()]))


def chosen(*without: str) -> str:
    """The form that the rule takes, of publications but these."""
    sources = [source for source in SOURCES if source not in without]
    scores = {name: np.array([score(name, each, *without) for each in sources]) for name in FORMS}
    best = max(scores, key=lambda name: scores[name].mean())
    behind = {name: scores[best] - values for name, values in scores.items()}
    near = [
        name
        for name, values in behind.items()
        if values.mean() <= values.std(ddof=1) / len(values) ** 0.5
    ]
    return min(near, key=lambda name: (parameters(FORMS[name]), behind[name].mean()))


if __name__ == "__main__":
    for name in FORMS:
        scores = [score(name, source) for source in SOURCES]
        models = functools.partial(model_without, name)
        pairs = predicted_pairs(TRAININGS, models)
        found = summary(TRAININGS, pairs)
        print(
            f"{name:32s} {parameters(FORMS[name]):3d} parameters  {found['right']:g} of"
            f" {found['pairs']}  {found['publications']['share']:.3f}  log score"
            f" {np.mean(scores):.3f}",
            flush=True,
        )
    print("the rule takes", chosen())
    by_source = {source: chosen(source) for source in SOURCES}
    for source, name in by_source.items():
        print(f"  without {source}: {name}")
    pairs = predicted_pairs(TRAININGS, lambda source: model_without(by_source[source], source))
    print(summary(TRAININGS, pairs)["publications"])
