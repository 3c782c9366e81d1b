"""Dense or sparse: what experts add to a network of its active size, each publication left out.

    python experiments/evidence/experts.py      # experts.csv and the table; seconds of one core

Pairs of networks of one group, by what they differ in, predicted by a law that was fitted without the
publication, or without the size class of OLMoE3. Beside it: the active size alone, the geometric mean
of all and of active parameters, and two laws as published (published_expert_laws.csv), to which no
constant is fitted. A tie counts half; "active size" has few ties, because routers are parameters.

Expected: experts.csv and the tables of docs/loss.md. The form and the noise were chosen with all
rows in sight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pairs import predicted_pairs
from scipy.optimize import least_squares

from flashnas.loss.composition import Law
from flashnas.loss.experts import gain_of_experts, log_granularity
from flashnas.loss.load import loss_model
from flashnas.loss.mix import body_sizes, stacks
from flashnas.loss.model import FullLoss, contrasts
from flashnas.loss.prediction import WITHIN_SDS
from flashnas.observations.losses import DATA, ObservedLoss
from flashnas.observations.read_losses import EXPERTS, read_published

LAWS = DATA / "published_expert_laws.csv"
# between publications, by their laws: of ln(gamma), of g, and of the slope of the law, relative
BETWEEN = (0.45, 0.08, 0.2)
# nats, of one training: twice the usual noise, because what the law misses of a design it misses at
# all four lengths (correlations of 0.7 to 0.9 from each length to the next), so that they count as one
NOISE = 0.03
START = (math.log(0.3), 0.15)  # ln(gamma), g
BASELINE = "48 experts, 4 active, one dense layer first"
KINDS = {
    "dense": "dense or sparse",
    "more experts": "number of experts",
    "coarser": "granularity",
    "finer": "granularity",
    "no shared expert": "shared expert",
    "no dense layer": "dense layers first",
    "2 dense layers first": "dense layers first",
    "4 dense layers first": "dense layers first",
}


def sizes_of(rows: Sequence[ObservedLoss]) -> np.ndarray:
    """Parameters without embeddings, active ones, log granularity, tokens, width [5, N]."""
    networks = stacks([row.specs for row in rows], [row.hidden for row in rows])
    params, active, _ = body_sizes(networks).T
    tokens = [row.tokens for row in rows]
    return np.array([params, active, log_granularity(networks), tokens, networks.hidden])


def law_losses(law: Law, slope: float, sizes: np.ndarray) -> np.ndarray:
    """By the law with experts [N]; slope: of its size; sizes: of `sizes_of`."""
    params, active, log_fine, tokens, width = sizes
    counted, *_ = gain_of_experts(law, params, active, log_fine, tokens)
    shape = law.by_shape(active, width) - law.by_size(active)
    return slope * (shape + law.by_size(counted)) + law.by_tokens(counted, tokens)


def with_experts(
    law: Law, slope: float, rows: Sequence[ObservedLoss]
) -> tuple[Law, dict[str, float]]:
    """The law with gamma and g, and the standard deviations of its columns of experts for a new
    publication.

    Each publication has a gamma, a g and a slope of its own, about those of all, with the spreads
    between published laws; all are found at once by penalised least squares. slope: of the law, in
    the model.
    """
    sources = np.array([row.source for row in rows], object)
    levels = contrasts(np.array([row.group for row in rows], object)) / NOISE
    nats, sizes = np.array([row.nats for row in rows]), sizes_of(rows)

    def residuals(x: np.ndarray) -> np.ndarray:
        losses = np.zeros(len(rows))
        for own, source in zip(x[2:].reshape(-1, 3), dict.fromkeys(sources), strict=True):
            log_gamma, g, scale = (*x[:2], 1.0) + own * BETWEEN
            whole = dataclasses.replace(law, gamma=math.exp(log_gamma), g=g)
            losses += (sources == source) * law_losses(whole, slope * scale, sizes)
        return np.concatenate([levels @ (nats - losses), x[2:]])

    found = least_squares(residuals, [*START, *[0.0] * 3 * len(set(sources))])
    sds = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)))
    own = np.hypot(BETWEEN, [*sds[:2], 0.0])
    names = ("experts_gamma", "experts_g", "experts_slope")
    law = dataclasses.replace(law, gamma=math.exp(found.x[0]), g=float(found.x[1]))
    return law, dict(zip(names, map(float, slope * own), strict=True))


def model_of(shipped: FullLoss, rows: Sequence[ObservedLoss]) -> FullLoss:
    """The model with the law of experts fitted to these rows alone."""
    law, sds = with_experts(shipped.law, shipped.coefficients()["law"][0], rows)
    spreads = dataclasses.replace(shipped.spreads, common={**shipped.spreads.common, **sds})
    return FullLoss(shipped.rows, spreads, law)


def other_laws(shipped: FullLoss, rows: Sequence[ObservedLoss]) -> pd.DataFrame:
    """Losses by laws that are not fitted to experts; a column for each law."""
    sizes, law = sizes_of(rows), dataclasses.replace(shipped.law, g=0.0)
    params, active, log_fine, tokens, _ = sizes
    table = pd.read_csv(LAWS).pivot(index="name", columns="law", values="value")
    k, f, d = (table[name] for name in ("joint", "krajewski", "krajewski dense"))
    ratio = np.ones(len(rows))  # experts over active ones
    for i, row in enumerate(rows):
        ratio[i] = max(getattr(s, "experts", 1) / getattr(s, "active", 1) for s in row.specs)
    limit = 1 / (1 / k.e_start - 1 / k.e_max)
    log_e = -np.log(1 / (ratio - 1 + limit) + 1 / k.e_max)
    by_size = k.a * np.exp(k.delta * log_e) * active ** (k.alpha + k.gamma * log_e)
    by_tokens = k.b * np.exp(k.omega * log_e) * tokens ** (k.beta + k.zeta * log_e)
    fine = f.g * np.exp(-f.gamma * log_fine) + f.a
    sparse = fine * params**-f.alpha + f.b * tokens**-f.beta
    dense = d.a * params**-d.alpha + d.b * tokens**-d.beta
    slope = shipped.coefficients()["law"][0]
    return pd.DataFrame(
        {
            "active size": law_losses(dataclasses.replace(law, gamma=0.0), slope, sizes),
            "geometric mean": law_losses(dataclasses.replace(law, gamma=0.5), slope, sizes),
            "Joint": by_size + by_tokens,
            "Krajewski": np.where(params > active, sparse, dense),
        }
    )


def kind_of(one: ObservedLoss, other: ObservedLoss) -> str:
    """What two networks of a group differ in."""
    notes = {one.note, other.note} - {BASELINE}
    kinds = {KINDS.get(note, "several") for note in notes}
    return KINDS["dense"] if "dense" in notes else kinds.pop() if len(kinds) == 1 else "several"


def fold_of(row: ObservedLoss) -> str:
    """The publication, or the size class of OLMoE3."""
    return "DeepSeekMoE" if row.source == "2401.06066" else f"OLMoE3 {row.group.split('_')[1]}"


def study() -> pd.DataFrame:
    """One line for each pair."""
    rows, shipped = read_published(EXPERTS), loss_model()
    others, lines = other_laws(shipped, rows), []
    for fold in dict.fromkeys(map(fold_of, rows)):
        model = model_of(shipped, [row for row in rows if fold_of(row) != fold])
        here = [index for index, row in enumerate(rows) if fold_of(row) == fold]
        for pair in predicted_pairs([rows[index] for index in here], lambda _, m=model: m):
            one, other = here[pair.one], here[pair.other]
            gaps = {"law": pair.predicted, **(others.loc[one] - others.loc[other])}
            line = {"left out": fold, "kind": kind_of(rows[one], rows[other]), "clear": pair.clear}
            line |= {"half-width": WITHIN_SDS * pair.sd}
            for name, gap in gaps.items():
                line[f"right, {name}"] = dataclasses.replace(pair, predicted=gap).right * pair.clear
                line[f"RMSE, {name}"] = (gap - pair.published) ** 2
            lines.append(line)
    return pd.DataFrame(lines)


def figures(pairs: pd.DataFrame) -> pd.Series:
    """Of pairs: clear ones, those of them that each law orders as published, its root mean square
    error, and of the model the median half-width of a 90 % interval and how many hold."""
    inside = np.sqrt(pairs["RMSE, law"]) < pairs["half-width"]
    found = {"pairs": len(pairs), "clear": pairs["clear"].sum(), "inside": inside.mean()}
    found |= {**pairs.filter(like="right").sum(), **np.sqrt(pairs.filter(like="RMSE").mean())}
    return pd.Series({**found, "half-width": pairs["half-width"].median()})


if __name__ == "__main__":
    pairs = study()
    parts = {
        "all": pairs,
        **dict(iter(pairs.groupby("kind"))),
        **dict(iter(pairs.groupby("left out"))),
    }
    table = pd.DataFrame({name: figures(part) for name, part in parts.items()}).T.round(4)
    table.to_csv(Path(__file__).with_suffix(".csv"), index_label="pairs of")
    print(table.to_string())
