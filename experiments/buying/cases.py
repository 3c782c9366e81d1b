"""Full trainings that exist, and smaller or shorter ones of the same mixes that could have been bought
before them (buying.py)."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from flashnas.architecture import Architecture
from flashnas.loss import mix
from flashnas.loss.composition import FEATURES, Rows
from flashnas.loss.load import loss_model, rows_of
from flashnas.loss.mix import KINDS
from flashnas.loss.model import FullLoss
from flashnas.loss.own import own_rows
from flashnas.observations.losses import ObservedLoss
from flashnas.observations.read_losses import groups_without_repeats, read_published

HERE = Path(__file__).parent
FULL = HERE.parent / "full_training"
sys.path.append(str(HERE.parent / "evidence"))
from short_trainings import short_trainings  # noqa: E402

CHEAPER = 0.75  # of the FLOPs of a group: a smaller group costs at most so much
ALIKE = 0.15  # sum of differences of shares below which one mix stands for the other
LEAST_ROWS = 3  # of a group, that were trained smaller, too
SHORT_TOKENS = 262_144
LADDERS, UNPUBLISHED = "ladders", "unpublished operator"
SHORT, TWELVE = "short trainings", "twelve networks"


@dataclass(frozen=True)
class Case:
    """Candidates [N] with their full losses, and one training [N] of each that can be bought.

    of_best: whether the best candidate has the operator that no publication has. bare: the model
    without any publication. costs [N]: FLOPs of the trainings. full_flops: of the full training of
    one candidate, the median.
    """

    kind: str
    publication: str
    name: str
    of_best: bool
    model: FullLoss
    bare: FullLoss
    candidates: Rows
    trainings: Rows
    costs: np.ndarray
    full_flops: float

    @property
    def regrets(self) -> np.ndarray:
        return np.asarray(self.candidates.nats - self.candidates.nats.min())


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
    unpublished: str = "",
) -> Case:
    """Of the rows that have a training. small: of each row, or None. unpublished: an operator that no
    publication has."""
    model = loss_model(without=source)
    if unpublished:
        known = model.rows.shares[:, KINDS.index(unpublished)] == 0
        model = FullLoss(model.rows.take(np.flatnonzero(known)), model.spreads, model.law)
    pairs = [(row, one) for row, one in zip(full, small, strict=True) if one is not None]
    best = min(pairs, key=lambda pair: pair[0].nats)[0]
    with as_unknown(unpublished):
        candidates, trainings = (rows_for(model, part) for part in zip(*pairs, strict=True))
    return Case(
        kind=kind,
        publication=source or "flashnas",
        name=name,
        of_best=any(spec.kind == unpublished for spec in best.specs),
        model=model,
        bare=loss_model(without=source, published=False),
        candidates=candidates,
        trainings=trainings,
        costs=np.array([flops_of(one) for _, one in pairs]),
        full_flops=float(np.median([flops_of(row) for row, _ in pairs])),
    )


@contextmanager
def as_unknown(kind: str) -> Iterator[None]:
    """The model sees an operator as one that publications do not have."""
    known = mix.KINDS
    mix.KINDS = tuple("" if name == kind else name for name in known)
    yield
    mix.KINDS = known


def flops_of(row: ObservedLoss) -> float:
    return 6.0 * row.params * row.tokens


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


Step = tuple[list[ObservedLoss], list[ObservedLoss], list[ObservedLoss | None]]


def steps_of(rows: Sequence[ObservedLoss]) -> Iterator[Step]:
    """A smaller and a larger group of one publication, and the small row of each large one."""
    groups = [
        [rows[index] for index in members] for members in groups_without_repeats(rows).values()
    ]
    for small, large in itertools.permutations(groups, 2):
        if small[0].source != large[0].source:
            continue
        costs = [np.median([flops_of(row) for row in group]) for group in (small, large)]
        partners = matched(large, small)
        if costs[0] < CHEAPER * costs[1] and sum(map(bool, partners)) >= LEAST_ROWS:
            yield small, large, partners


def ladders(rows: Sequence[ObservedLoss]) -> Iterator[Case]:
    for small, large, partners in steps_of(rows):
        name = f"{small[0].group} -> {large[0].group}"
        yield case_of(LADDERS, name, large, partners, large[0].source)


def unpublished(rows: Sequence[ObservedLoss]) -> Iterator[Case]:
    """The cheapest step to each large group, with each operator that part of its rows have."""
    cheapest: dict[str, Step] = {}
    for step in sorted(steps_of(rows), key=lambda step: flops_of(step[0][0])):
        cheapest.setdefault(step[1][0].group, step)
    for small, large, partners in cheapest.values():
        kinds = [
            {spec.kind for spec in row.specs if spec.mixes_tokens}
            for row, partner in zip(large, partners, strict=True)
            if partner is not None
        ]
        for kind in sorted(set().union(*kinds) - set.intersection(*kinds)):
            name = f"{small[0].group} -> {large[0].group} without {kind}"
            yield case_of(UNPUBLISHED, name, large, partners, large[0].source, kind)


def short_cases(rows: Sequence[ObservedLoss]) -> Iterator[Case]:
    short = short_trainings(rows)
    for group, members in groups_without_repeats(rows).items():
        trained = [short[index] for index in members]
        if sum(map(bool, trained)) >= LEAST_ROWS:
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


def all_cases() -> list[Case]:
    rows = read_published()
    return [*ladders(rows), *unpublished(rows), *short_cases(rows), twelve()]
