"""Does buying pay? Regret of the recommendation against the FLOPs spent on trainings.

    python experiments/buying/buying.py          # buying.csv, buying.png and the tables
    python experiments/buying/buying.py --draw   # the tables and buying.png of buying.csv alone

Full trainings that exist are the truth, smaller or shorter ones of the same mixes what can be bought:

- ladders: the rows of a group of a publication, and those of a smaller group of the same publication;
- short trainings: the rows of a group, and their trainings by recipe `cpu` (262,144 tokens, a
  thirty-second of the width) of experiments/evidence;
- twelve networks: the full trainings of experiments/full_training, and the short ones of the same.

No publication is known to the model that predicts its rows. Regret is the loss of the recommended row
less the lowest of its group, in nats per token. Trainings are bought by one of these policies:

- publications: nothing is bought;
- both: publications, and what `flashnas.study.purchase` buys, until it stops;
- random: the same model, trainings bought in random order, the first two together;
- both, without publications: as `both`, with the spreads of the model and none of its rows;
- small loss: bought in random order; the lowest loss is recommended, as in the paper;
- bayes: bought by the acquisition of `bayes` as in 0.1.0: expected improvement of a Gaussian process of
  the losses over shares of mixers, size and shape; the first two at random. It recommends the lowest
  loss. Its pool, its batches and its latencies have no counterpart in a table of trainings.

Three seeds where there is chance. Cost: 6 FLOPs a token and parameter.

Expected, written before the first run: publications alone lose 0.010 nats. In ladders `both` loses a
third less for less than one full training, at random the same needs twice the FLOPs, and it stops
before half of the trainings are bought. The small loss alone is as good as `both` once all is bought,
and worse than publications before. 2604.03444 gains nothing. Of short trainings `both` buys few, and
loses as much as publications alone to within 0.002; the short loss alone loses 0.03. Of the twelve
networks the first is found by publications, and nothing is left to gain.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from flashnas.architecture import Architecture
from flashnas.loss.composition import FEATURES, Rows
from flashnas.loss.load import loss_model, rows_of
from flashnas.loss.model import FullLoss
from flashnas.loss.own import OWN, own_rows, with_own
from flashnas.observations.losses import (
    ObservedLoss,
    groups_without_repeats,
    read_published,
)
from flashnas.study.purchase import Prospects

HERE = Path(__file__).parent
FULL = HERE.parent / "full_training"
sys.path.append(str(HERE.parent / "evidence"))
from short_trainings import short_trainings  # noqa: E402

SEEDS = (0, 1, 2)
CHEAPER = 0.75  # of the FLOPs of a group: a smaller group costs at most so much
ALIKE = 0.15  # nats apart are mixes of which one stands for the other, in shares
LEAST_ROWS = 3  # of a group
SHORT_TOKENS = 262_144
LADDERS, SHORT, TWELVE = "ladders", "short trainings", "twelve networks"
KEYS = ["kind", "policy", "publication", "case", "seed"]
POLICIES = (
    "publications",
    "both",
    "random",
    "both, without publications",
    "small loss",
    "bayes",
)


@dataclass(frozen=True)
class Case:
    """Candidates [N] with their full losses, and one training [N] of each that can be bought.

    full_flops: of the full training of one candidate, the median. costs [N]: FLOPs of the trainings,
    infinite where there is none.
    """

    kind: str
    publication: str
    name: str
    model: FullLoss
    candidates: Rows
    trainings: Rows
    costs: np.ndarray
    full_flops: float

    @property
    def regrets(self) -> np.ndarray:
        return np.asarray(self.candidates.nats - self.candidates.nats.min())

    @property
    def buyable(self) -> np.ndarray:
        return np.flatnonzero(np.isfinite(self.costs))


# -- cases -----------------------------------------------------------------------------------------


def rows_for(model: FullLoss, rows: Sequence[ObservedLoss]) -> Rows:
    """Rows of the publication that the model predicts for."""
    table = rows_of(rows, model.law)
    return dataclasses.replace(table, publication=np.full(len(table), model.publication, object))


def case_of(
    kind: str,
    name: str,
    full: Sequence[ObservedLoss],
    small: Sequence[ObservedLoss | None],
    source: str,
) -> Case:
    """small: the training of each candidate, or None."""
    model = loss_model(without=source)
    # what cannot be bought needs a row all the same
    first = next(row for row in small if row is not None)
    level = first.level or first.group
    trained = [
        dataclasses.replace(row or full[index], group="bought", level=level)
        for index, row in enumerate(small)
    ]
    return Case(
        kind=kind,
        publication=source or "flashnas",
        name=name,
        model=model,
        candidates=rows_for(model, full),
        trainings=rows_for(model, trained),
        costs=np.array([np.inf if row is None else flops_of(row) for row in small]),
        full_flops=float(np.median([flops_of(row) for row in full])),
    )


def flops_of(row: ObservedLoss) -> float:
    return 6 * row.params * row.tokens


def matched(
    full: Sequence[ObservedLoss], small: Sequence[ObservedLoss]
) -> list[ObservedLoss | None]:
    """The small row of the same mix of each full one."""
    law = loss_model().law
    one, other = (
        np.c_[table.shares, table.ffn, table.x[:, FEATURES.index("window")]]
        for table in (rows_of(full, law), rows_of(small, law))
    )
    apart = np.abs(one[:, None] - other).sum(axis=-1)
    found: list[ObservedLoss | None] = [None] * len(full)
    for index, partner in zip(*linear_sum_assignment(np.minimum(apart, 1.0)), strict=True):
        if apart[index, partner] < ALIKE:
            found[index] = small[partner]
    return found


def ladders(rows: Sequence[ObservedLoss]) -> Iterator[Case]:
    groups = [
        [rows[index] for index in members] for members in groups_without_repeats(rows).values()
    ]
    for small, large in itertools.permutations(groups, 2):
        if small[0].source != large[0].source or len(large) < LEAST_ROWS:
            continue
        costs = [np.median([flops_of(row) for row in group]) for group in (small, large)]
        partners = matched(large, small)
        if costs[0] < CHEAPER * costs[1] and sum(row is not None for row in partners) >= 2:
            name = f"{small[0].group} -> {large[0].group}"
            yield case_of(LADDERS, name, large, partners, large[0].source)


def short_cases(rows: Sequence[ObservedLoss]) -> Iterator[Case]:
    short = short_trainings(rows)
    for group, members in groups_without_repeats(rows).items():
        trained = [
            None
            if short[index] is None
            else ObservedLoss.of(
                short[index][0], nats=short[index][1], tokens=SHORT_TOKENS, group="short"
            )
            for index in members
        ]
        if sum(row is not None for row in trained) >= LEAST_ROWS:
            full = [rows[index] for index in members]
            yield case_of(SHORT, group, full, trained, full[0].source)


def twelve() -> Case:
    with (FULL / "short.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    full = own_rows(FULL / "own.csv")
    networks = [Architecture.parse(line["notation"]) for line in lines]
    short = {
        str(network).split(": ", 1)[1]: ObservedLoss.of(
            network, nats=float(line["loss"]), tokens=SHORT_TOKENS, group="short"
        )
        for network, line in zip(networks, lines, strict=True)
    }
    return case_of(TWELVE, "equal ms", full, [short[row.operators] for row in full], "")


# -- policies --------------------------------------------------------------------------------------

Steps = list[tuple[list[int], float]]  # what is bought, in order, and the regret after it


@functools.cache
def _without_publications() -> FullLoss:
    return loss_model(published=False)


class Buyer:
    """The model of a case after trainings."""

    def __init__(self, case: Case, model: FullLoss) -> None:
        self.case, self.model = case, model
        self.after = functools.cache(self._after)

    def _after(self, bought: frozenset[int]) -> Prospects:
        case, own, reliability = self.case, None, 1.0
        if bought:
            own = case.trainings.take(np.array(sorted(bought)))
            named = dataclasses.replace(own, publication=np.full(len(own), OWN, object))
            reliability = with_own(self.model, named).spreads.reliability[OWN]
        return Prospects(self.model, own, case.candidates, case.trainings, reliability)

    def regret(self, bought: Sequence[int]) -> float:
        return float(self.case.regrets[self.after(frozenset(bought)).recommended])

    def greedy(self) -> Steps:
        """What `best_set` buys until it stops."""
        bought: list[int] = []
        steps = [(list(bought), self.regret(bought))]
        while True:
            costs = self.case.costs.copy()
            costs[bought] = np.inf
            found = self.after(frozenset(bought)).best_set(costs, len(self.case.buyable))
            if found is None:
                return steps
            bought += found[0]
            steps.append((list(bought), self.regret(bought)))

    def random(self, seed: int) -> Steps:
        order = shuffled(self.case, seed)
        counts = [0, *range(2, len(order) + 1)]
        return [(order[:count], self.regret(order[:count])) for count in counts]


def shuffled(case: Case, seed: int) -> list[int]:
    return [int(index) for index in np.random.default_rng(seed).permutation(case.buyable)]


def by_small_loss(case: Case, order: Sequence[int], start: int = 1) -> Steps:
    """The lowest loss of those that are bought; before the first one any candidate."""
    steps: Steps = [([], float(case.regrets.mean()))]
    for count in range(start, len(order) + 1):
        bought = list(order[:count])
        best = bought[int(np.argmin(case.trainings.nats[bought]))]
        steps.append((bought, float(case.regrets[best])))
    return steps


def bayes(case: Case, seed: int) -> Steps:
    from flashnas.algorithms.loss_model import Scale, Surrogate, expected_improvement

    table = case.trainings
    features = np.c_[table.shares, table.ffn, table.scale[:, [0, 2]]]
    features = Scale(features)(features)
    bought, left = (lambda order: (order[:2], order[2:]))(shuffled(case, seed))
    while left:
        surrogate = Surrogate(features[bought], table.nats[bought], seed=seed)
        mean, covariance = surrogate.predict(features[left])
        sd = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        gains = expected_improvement(mean, sd, table.nats[bought].min()) / case.costs[left]
        bought.append(left.pop(int(np.argmax(gains))))
    return by_small_loss(case, bought, start=2)


def lines_of(case: Case) -> Iterator[dict[str, object]]:
    buyer, alone = Buyer(case, case.model), Buyer(case, _without_publications())
    found: list[tuple[str, int, Steps]] = [
        ("publications", 0, [([], buyer.regret([]))]),
        ("both", 0, buyer.greedy()),
        ("both, without publications", 0, alone.greedy()),
    ]
    for seed in SEEDS:
        found.append(("random", seed, buyer.random(seed)))
        found.append(("small loss", seed, by_small_loss(case, shuffled(case, seed))))
        found.append(("bayes", seed, bayes(case, seed)))
    for policy, seed, steps in found:
        for bought, regret in steps:
            flops = float(case.costs[bought].sum())
            yield {
                "kind": case.kind,
                "publication": case.publication,
                "case": case.name,
                "candidates": len(case.candidates),
                "policy": policy,
                "seed": seed,
                "trainings": len(bought),
                "flops": float(f"{flops:.4g}"),
                "share": round(flops / float(case.costs[case.buyable].sum()), 4),
                "full_trainings": float(f"{flops / case.full_flops:.4g}"),
                "regret": round(regret, 5),
            }


# -- table and picture -----------------------------------------------------------------------------


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
    return found.reindex([(kind, policy) for kind in kinds for policy in POLICIES])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="of buying.csv alone")
    if not parser.parse_args().draw:
        rows = read_published()
        cases = [*ladders(rows), *short_cases(rows), twelve()]
        lines = [line for case in cases for line in lines_of(case)]
        pd.DataFrame(lines).to_csv(HERE / "buying.csv", index=False)
    table = pd.read_csv(HERE / "buying.csv")
    print(summary(table).round(4).to_string())


if __name__ == "__main__":
    main()
