"""Full trainings that exist, and smaller or shorter ones of the same mixes that could have come before
them (buying.py)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from short_trainings import short_trainings

from flashnas.loss import mix
from flashnas.loss.composition import FEATURES, Rows
from flashnas.loss.load import loss_model, rows_of, shipped_model
from flashnas.loss.mix import KINDS
from flashnas.loss.model import FullLoss
from flashnas.loss.own import OWN
from flashnas.observations.losses import ObservedLoss, groups_without_repeats
from flashnas.observations.read_losses import read_published
from flashnas.study.scorer import FullTraining
from flashnas.training.cost import ASSUMED_UTILISATION

SLOWER = FullTraining().utilisation / ASSUMED_UTILISATION  # hours of a FLOP of a short training
CHEAPER = 0.75  # of the FLOPs of a group: a smaller group costs at most so much
ALIKE = 0.15  # sum of differences of shares below which one mix stands for the other
LEAST_ROWS = 3  # of a group, that were trained smaller, too
LATEST = "2609.24797"  # KDA, which no other publication has
PUBLISHED, NOT_PUBLISHED, RECIPE = (
    "all operators published",
    "an operator that is not",
    "another recipe",
)


@dataclass(frozen=True)
class Offer:
    """One small training of some candidates. rows [M]: with their losses. candidates [M]: indices.
    shares [M]: of the hours of the full training of one candidate, the median."""

    name: str
    rows: Rows
    candidates: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class Case:
    """Candidates [N] with their full losses, and what could be trained before. kind: PUBLISHED,
    NOT_PUBLISHED or RECIPE. params, tokens: of the full trainings, the median; without embeddings."""

    kind: str
    publication: str
    name: str
    model: FullLoss
    candidates: Rows
    params: float
    tokens: float
    offers: tuple[Offer, ...]

    @property
    def regrets(self) -> np.ndarray:
        return np.asarray(self.candidates.nats - self.candidates.nats.min())


def rows_for(publication: str, rows: Sequence[ObservedLoss], model: FullLoss) -> Rows:
    table = rows_of(rows, model.law)
    return dataclasses.replace(table, publication=np.full(len(table), publication, object))


def flops_of(row: ObservedLoss) -> float:
    return 6.0 * (row.active or row.params) * row.tokens


Partners = Sequence[ObservedLoss | None]  # the small training of each large row


def case_of(
    kind: str,
    name: str,
    large: Sequence[ObservedLoss],
    small: dict[str, Partners],
    unpublished: str = "",
) -> Case:
    """unpublished: an operator that no publication has."""
    model = shipped_model(large[0].source)
    if unpublished:
        known = model.rows.shares[:, KINDS.index(unpublished)] == 0
        model = FullLoss(model.rows.take(np.flatnonzero(known)), model.spreads, model.law)
    full = float(np.median([flops_of(row) for row in large]))
    tokens = float(np.median([row.tokens for row in large]))
    offers = []
    with as_unknown(unpublished):
        candidates = rows_for(model.publication, large, model)
        for label, partners in small.items():
            index = np.flatnonzero([partner is not None for partner in partners])
            rows = [partner for partner in partners if partner is not None]
            shares = SLOWER * np.array([flops_of(row) for row in rows]) / full
            offers.append(Offer(label, rows_for(OWN, rows, model), index, shares))
    return Case(
        kind=kind,
        publication=large[0].source,
        name=name,
        model=model,
        candidates=candidates,
        params=full / (6 * tokens),
        tokens=tokens,
        offers=tuple(offers),
    )


@contextmanager
def as_unknown(kind: str) -> Iterator[None]:
    """The model sees an operator as one that publications do not have."""
    known = mix.KINDS
    mix.KINDS = tuple("" if name == kind else name for name in known)
    yield
    mix.KINDS = known


def matched(full: Sequence[ObservedLoss], small: Sequence[ObservedLoss]) -> Partners:
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
    """Each large group, with all smaller ones; and without each operator that part of its rows have."""
    groups = [
        [rows[index] for index in members] for members in groups_without_repeats(rows).values()
    ]
    offers: dict[int, dict[str, Partners]] = {}
    for one, other in itertools.permutations(range(len(groups)), 2):
        small, large = groups[one], groups[other]
        if small[0].source != large[0].source:
            continue
        costs = [np.median([flops_of(row) for row in group]) for group in (small, large)]
        partners = matched(large, small)
        if costs[0] < CHEAPER * costs[1] and sum(map(bool, partners)) >= LEAST_ROWS:
            offers.setdefault(other, {})[small[0].group] = partners
    for index, small in offers.items():
        large = groups[index]
        name, source = large[0].group, large[0].source
        yield case_of(NOT_PUBLISHED if source == LATEST else PUBLISHED, name, large, small)
        if source == LATEST:
            continue
        kinds = [{spec.kind for spec in row.specs if spec.mixes_tokens} for row in large]
        for kind in sorted(set().union(*kinds) - set.intersection(*kinds)):
            yield case_of(NOT_PUBLISHED, f"{name} without {kind}", large, small, kind)


def by_another_recipe(rows: Sequence[ObservedLoss]) -> Iterator[Case]:
    """The same groups with short trainings by recipe `cpu`: 262,144 tokens at a thirty-second of the
    width."""
    short = short_trainings(rows)
    for group, members in groups_without_repeats(rows).items():
        partners = [short[index] for index in members]
        if sum(map(bool, partners)) >= LEAST_ROWS:
            yield case_of(RECIPE, group, [rows[index] for index in members], {"cpu": partners})


def all_cases() -> list[Case]:
    rows = read_published()
    return [*ladders(rows), *by_another_recipe(rows)]
