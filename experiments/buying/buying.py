"""Does buying pay? Regret of the recommendation against the FLOPs spent on trainings.

    python experiments/buying/buying.py          # buying.csv and the tables; a minute of one core

Full trainings that exist are the truth, smaller or shorter ones of the same mixes what can be bought:

- ladders: the rows of a group of a publication, and those of a smaller group of the same publication;
- unpublished operator: the same, with one operator in turn that no publication has, as one's own;
- short trainings: the rows of a group, and their trainings by recipe `cpu` (262,144 tokens, a
  thirty-second of the width) of experiments/evidence;
- twelve networks: the full trainings of experiments/full_training, and the short ones of the same.

No publication is known to the model that predicts its rows. Regret is the loss of the recommended row
less the lowest of its group, in nats per token. Trainings are bought by one of these policies:

- publications: nothing is bought;
- both: publications, and the trainings that gain most per FLOP by `flashnas.study.acquisition`, until
  none gains 0.0005 nats: the rule of 0.2.0;
- random: the same model, trainings bought in random order, the first two together;
- both, without publications: as `both`, with the spreads of the model and none of its rows;
- small loss: bought in random order; the lowest loss is recommended, as in the paper.

Three seeds where there is chance. Cost: 6 FLOPs a token and parameter.

Expected, written before the first run: publications alone lose 0.010 nats. In ladders `both` loses a
third less for less than one full training, at random the same needs twice the FLOPs, and it stops
before half of the trainings are bought. The small loss alone is as good as `both` once all is bought,
and worse than publications before. 2604.03444 gains nothing. Of short trainings `both` buys few, and
loses as much as publications alone to within 0.002; the short loss alone loses 0.03. Of the twelve
networks the first is found by publications, and nothing is left to gain. Added after the other kinds
had run, and before its own first run: with an unpublished operator publications lose 0.025, because
nobody vouches for it, and `both` half of that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cases import UNPUBLISHED, Case, all_cases
from scipy.stats import multivariate_normal

from flashnas.loss.composition import Rows
from flashnas.loss.model import RELIABILITY_SD, FullLoss, contrasts
from flashnas.loss.own import NEAR, RELIABILITIES
from flashnas.study.acquisition import Joint, Prospects

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
KEYS = ["kind", "policy", "publication", "case", "seed"]
LEAST_GAIN = 5e-4  # nats; a smaller one is not bought
LARGEST = 8  # trainings of a set
POLICIES = ("publications", "both", "random", "both, without publications", "small loss")


# -- policies --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What is bought, in order, the regret after it, and by how much it was expected to fall."""

    bought: list[int]
    regret: float
    expected: float = 0.0


def reliability_of(model: FullLoss, own: Rows) -> float:
    """As `with_own` finds it. Only the own rows depend on it: their density, given the published ones,
    is that of all but for a constant."""
    own = own.take(np.flatnonzero(np.abs(own.far).sum(axis=1) <= NEAR))
    if not len(own):
        return 1.0
    prediction, every = model.predict(own), np.arange(len(own))
    within = contrasts(own.level)
    gaps = within @ (own.nats - prediction.mean)
    shared, alone = (
        within @ part.covariance(every) @ within.T for part in (prediction.shared, prediction.own)
    )
    alone += prediction.noise**2 * np.eye(len(gaps))

    def cost(log: float) -> float:
        density = multivariate_normal(cov=shared + np.exp(2 * log) * alone)
        return 0.5 * (log / RELIABILITY_SD) ** 2 - float(density.logpdf(gaps))

    logs = RELIABILITY_SD * RELIABILITIES
    costs = np.array([cost(log) for log in logs])
    weights = np.exp(costs.min() - costs)
    return float(np.exp(weights @ logs / weights.sum()))


class Buyer:
    """The model of a case after trainings."""

    def __init__(self, case: Case, model: FullLoss) -> None:
        self.case, self.model = case, model
        self.after = functools.cache(self._after)

    def _after(self, bought: frozenset[int]) -> Prospects:
        case, own, reliability = self.case, None, 1.0
        if bought:
            own = case.trainings.take(np.array(sorted(bought)))
            reliability = reliability_of(self.model, own)
        return Prospects(Joint.of(self.model, own, case.candidates, case.trainings, reliability))

    def regret(self, bought: Sequence[int]) -> float:
        return float(self.case.regrets[self.after(frozenset(bought)).recommended])

    def greedy(self) -> list[Step]:
        """What `best_set` buys until it stops."""
        most = len(self.case.costs)
        bought: list[int] = []
        steps = [Step([], self.regret([]))]
        while most > len(bought):
            costs = self.case.costs.copy()
            costs[bought] = np.inf  # cannot be bought twice
            found = best_set(self.after(frozenset(bought)), costs, most - len(bought))
            if found is None:
                break
            bought = bought + found[0]
            steps.append(Step(bought, self.regret(bought), found[1]))
        return steps

    def random(self, seed: int) -> list[Step]:
        order = shuffled(self.case, seed)
        counts = [0, *range(2, len(order) + 1)]
        return [Step(order[:count], self.regret(order[:count])) for count in counts]


def best_set(
    prospects: Prospects, costs: np.ndarray, at_most: int
) -> tuple[list[int], float] | None:
    """The candidates whose trainings gain most per cost, and their gain; None where that is less than
    LEAST_GAIN. One more joins while the gain per cost rises, or is too small."""
    order = [int(index) for index in np.argsort(prospects.values) if np.isfinite(costs[index])]
    first, others = order[:1], order[1:]

    def worth(chosen: list[int]) -> tuple[bool, float, float, list[int]]:
        gain = prospects.gain(sorted(chosen))
        return gain >= LEAST_GAIN, gain / float(costs[chosen].sum()), gain, chosen

    sets = [[index] for index in order] + [[*first, other] for other in others]
    best = max((worth(each) for each in sets if len(each) <= at_most), default=None)
    while best is not None and len(best[-1]) < min(at_most, LARGEST):
        more = [[*best[-1], other] for other in order if other not in best[-1]]
        grown = max(map(worth, more), default=best)
        if grown[-1] is best[-1] or (best[0] and grown < best):
            break
        best = grown
    return (best[-1], best[2]) if best is not None and best[0] else None


def shuffled(case: Case, seed: int) -> list[int]:
    return [int(index) for index in np.random.default_rng(seed).permutation(len(case.costs))]


def by_small_loss(case: Case, order: Sequence[int]) -> list[Step]:
    """The lowest loss of those that are bought; before the first one any candidate."""
    steps = [Step([], float(case.regrets.mean()))]
    for count in range(1, len(order) + 1):
        bought = list(order[:count])
        best = bought[int(np.argmin(case.trainings.nats[bought]))]
        steps.append(Step(bought, float(case.regrets[best])))
    return steps


def lines_of(case: Case) -> Iterator[dict[str, object]]:
    buyer, alone = Buyer(case, case.model), Buyer(case, case.bare)
    found = [
        ("publications", 0, [Step([], buyer.regret([]))]),
        ("both", 0, buyer.greedy()),
    ]
    found += [("random", seed, buyer.random(seed)) for seed in SEEDS]
    if case.kind != UNPUBLISHED:  # there the others do what they do for ladders
        found.append(("both, without publications", 0, alone.greedy()))
        for seed in SEEDS:
            found.append(("small loss", seed, by_small_loss(case, shuffled(case, seed))))
    for policy, seed, steps in found:
        for step in steps:
            flops = float(case.costs[step.bought].sum())
            yield {
                "kind": case.kind,
                "publication": case.publication,
                "case": case.name,
                "candidates": len(case.candidates),
                "of_best": case.of_best,
                "policy": policy,
                "seed": seed,
                "trainings": len(step.bought),
                "flops": float(f"{flops:.4g}"),
                "share": round(flops / float(case.costs.sum()), 4),
                "full_trainings": float(f"{flops / case.full_flops:.4g}"),
                "regret": round(step.regret, 5),
                "expected_gain": round(step.expected, 5),
            }


# -- the table ---------------------------------------------------------------------------------------


def regret_at(table: pd.DataFrame, share: float) -> pd.Series:
    """Of each kind and policy the mean regret once this share of the FLOPs on offer may be spent,
    publications equal."""
    within = table[table.share <= share]
    return equal(within.sort_values("trainings").groupby(KEYS).regret.last())


def equal(values: pd.Series) -> pd.Series:
    """The mean over seeds, then over the cases of a publication, then over publications."""
    for count in (4, 3, 2):
        values = values.groupby(KEYS[:count]).mean()
    return values


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Regret at shares of the FLOPs on offer, and what was spent at the end."""
    found = pd.DataFrame({f"{share:.0%}": regret_at(table, share) for share in (0, 0.3, 0.5, 1)})
    for name in ("trainings", "share", "full_trainings"):
        found[name] = equal(table.groupby(KEYS)[name].max())
    kinds = dict.fromkeys(table.kind)
    order = [(kind, policy) for kind in kinds for policy in POLICIES]
    return found.reindex(order).dropna()


def main() -> None:
    table = pd.DataFrame([line for case in all_cases() for line in lines_of(case)])
    table.to_csv(HERE / "buying.csv", index=False)
    print(summary(table).round(4).to_string())
    unpublished = table[table.kind == UNPUBLISHED]
    for of_best, part in unpublished.groupby("of_best"):
        print(f"unpublished operator {'' if of_best else 'not '}in the best network")
        print(summary(part).round(4).to_string())


if __name__ == "__main__":
    main()
