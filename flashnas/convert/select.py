"""Choose a layout: what single changes say of sets of them, how sure that is, and the exact choice.

Single changes are measured alone. The KL of a set is more than their sum, since KL is quadratic in
what the changes do together: a pair adds twice the root of its product times a correlation. The
correlation falls with the distance of the layers, and differs from pair to pair. How much it is, is
learnt from sets that are measured, by Bayesian linear regression; the error of a prediction is that
of sets which the law has not seen, and what another draw of documents changes. The set of the
lowest expected KL within a budget is found by an integer program.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from scipy import sparse
from scipy.optimize import LinearConstraint, milp
from scipy.stats import spearmanr

from flashnas.base.text import INTERVAL_90
from flashnas.convert.choices import KEPT, Choice, Layout
from flashnas.convert.found import LayerChoice, LayoutPrediction
from flashnas.convert.measure import LayoutScore
from flashnas.convert.recall import RecallLaw

DECAY = 4.0  # operators of distance over which the correlation of two changes falls to 1/e
FARTHEST = 8  # operators; changes farther apart are taken for unrelated
RESAMPLES = 50
DECIDED = 0.9  # share of resamples that choose the same
LEAST_KL = 1e-5  # nats; below it a change is free
LEAST_WEIGHT = 0.1  # of the sum of changes in a choice
WEIGHTS_SD = 1.0  # standard deviation of the weights of the sums before sets are measured
# .. of what is tried: of a pair's own correlation, and of what pairs do not explain
PAIRS_SD, NOISE = (0.25, 0.5, 1.0, 2.0), (0.03, 0.05, 0.08, 0.12, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class SingleScores:
    """The single changes. choices [C]; kl [C, N]: of each document; recalled, value_lost [C, P]: of
    each prompt, as in LayoutScore; block_error [C]: of the changed block."""

    choices: Sequence[Choice]
    kl: np.ndarray
    recalled: np.ndarray
    value_lost: np.ndarray
    block_error: np.ndarray

    @classmethod
    def of(cls, choices: Sequence[Choice], measured: Sequence[LayoutScore]) -> Self:
        return cls(
            choices,
            np.array([entry.kl for entry in measured]),
            np.array([entry.recalled for entry in measured]),
            np.array([entry.value_lost for entry in measured]),
            np.array([entry.block_error for entry in measured]),
        )

    def at(self, documents: np.ndarray, prompts: np.ndarray) -> Self:
        """The scores of these documents and prompts; one may be there several times."""
        return replace(
            self,
            kl=self.kl[:, documents],
            recalled=self.recalled[:, prompts],
            value_lost=self.value_lost[:, prompts],
        )

    @functools.cached_property
    def mean_kl(self) -> np.ndarray:
        """[C]"""
        return np.maximum(self.kl.mean(1), LEAST_KL)

    @functools.cached_property
    def lost(self) -> np.ndarray:
        """Nats by which the values of probes lose [C]; 0 without prompts."""
        prompts = max(self.value_lost.shape[1], 1)
        return self.value_lost.sum(1) / prompts

    @functools.cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of changes of layers that are near each other: rows of both [Q], and twice the root
        of the product of their KL times the correlation at their distance [Q]."""
        layers = np.array([choice.layer for choice in self.choices])
        first, second = np.triu_indices(len(layers), 1)
        distance = abs(layers[second] - layers[first])
        near = (distance > 0) & (distance <= FARTHEST)
        first, second, distance = first[near], second[near], distance[near]
        together = np.sqrt(self.mean_kl[first] * self.mean_kl[second])
        return first, second, 2 * together * np.exp(-distance / DECAY)

    @property
    def agreement(self) -> float:
        """Rank correlation of the KL on the even and on the odd documents."""
        return float(spearmanr(self.kl[:, ::2].mean(1), self.kl[:, 1::2].mean(1))[0])

    def features(self, layout: Layout) -> np.ndarray:
        """[2 + Q] of a layout, in nats: the sum of its changes, the sum of its pairs, each pair."""
        inside = self.inside(layout)
        first, second, together = self.pairs
        pairs = np.where(inside[first] & inside[second], together, 0.0)
        return np.array([self.mean_kl[inside].sum(), pairs.sum(), *pairs])

    def sum_lost(self, layout: Layout) -> float:
        return float(self.lost[self.inside(layout)].sum())

    def inside(self, layout: Layout) -> np.ndarray:
        """Which of the changes a layout has [C], bool."""
        keys = {choice.key for choice in layout}
        return np.array([choice.key in keys for choice in self.choices])


# -- the law of sets -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SampledSet:
    """documents [N], prompts [P]: the halves that it was chosen by, bool."""

    layout: Layout
    documents: np.ndarray
    prompts: np.ndarray


@dataclass(frozen=True, eq=False)
class SetLaw:
    """KL of a set = weights x its `features` by the scores of single changes. Relative errors count,
    so that the features of the S sets that were measured stand over their KL.

    seen [S, 2 + Q]; variances [2 + Q]: of the weights before anything is seen; inverse [S, S]: of
    the covariance of what is seen; noise: standard deviation of what pairs do not explain;
    document_error: of the logarithm, by another draw of documents; set_error: root mean square of
    the errors on sets, each left out in turn; recall: of the sum of `lost`.
    """

    scores: SingleScores
    seen: np.ndarray
    variances: np.ndarray
    inverse: np.ndarray
    noise: float
    document_error: float = 0.0
    set_error: float = 0.0
    recall: RecallLaw = field(default_factory=RecallLaw)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """[2 + Q]"""
        weights = self.variances * (self.seen.T @ self.inverse @ (1 - self.seen[:, 0]))
        weights[0] += 1  # before anything is seen, changes add up
        return weights

    def at(self, documents: np.ndarray, prompts: np.ndarray) -> Self:
        """The law of the scores of these documents and prompts."""
        return replace(self, scores=self.scores.at(documents, prompts))

    def predict(self, layout: Layout) -> LayoutPrediction:
        features = self.scores.features(layout)
        kl = max(float(self.weights @ features), LEAST_KL)
        with_seen = self.seen @ (self.variances * features)
        variance = features @ (self.variances * features) - with_seen @ self.inverse @ with_seen
        error = np.sqrt(max(variance, 0.0) / kl**2 + self.noise**2 + self.document_error**2)
        factor = float(np.exp(INTERVAL_90 * error))
        recall = self.recall.predict(self.scores.sum_lost(layout))
        return LayoutPrediction(kl, kl / factor, kl * factor, *recall)

    def summary(self) -> dict[str, float]:
        return {
            "alone": float(self.weights[0]),
            "neighbours": float(self.weights[1]),
            "pairs_sd": float(np.sqrt(self.variances[-1])),
            "set_error": self.set_error,
            "document_error": self.document_error,
            "recall_slope": self.recall.slope,
            "recall_error": self.recall.error,
            "sets": len(self.seen),
        }


def fit_law(
    scores: SingleScores, sets: Sequence[SampledSet], measured: Sequence[LayoutScore]
) -> SetLaw:
    """The law of sets that were measured on the documents of the single changes; without sets, that
    a set costs the sum of its changes. How much pairs differ, and how much they leave unexplained,
    is what makes the sets that were seen the likeliest."""
    kl = np.array([max(float(np.mean(score.kl)), LEAST_KL) for score in measured])
    rows = [scores.features(entry.layout) for entry in sets]
    seen = np.array(rows).reshape(len(sets), 2 + len(scores.pairs[0])) / kl[:, None]
    unexplained = 1 - seen[:, 0]

    def fitted(pairs_sd: float, noise: float) -> tuple[float, SetLaw]:
        variances = np.array([WEIGHTS_SD, WEIGHTS_SD, *[pairs_sd] * (seen.shape[1] - 2)]) ** 2
        covariance = (seen * variances) @ seen.T + noise**2 * np.eye(len(sets))
        inverse = np.linalg.inv(covariance)
        likelihood = -unexplained @ inverse @ unexplained - np.linalg.slogdet(covariance)[1]
        left_out = inverse @ unexplained / np.diag(inverse)
        law = SetLaw(scores, seen, variances, inverse, noise, set_error=root_mean_square(left_out))
        return likelihood, law

    _, law = max(
        itertools.starmap(fitted, itertools.product(PAIRS_SD, NOISE)), key=lambda of: of[0]
    )
    pairs = list(zip(sets, measured, strict=True))
    # between halves of the documents a logarithm differs with twice the variance of another draw
    between = [
        np.log(
            max(np.array(score.kl)[~entry.documents].mean(), LEAST_KL)
            / max(np.array(score.kl)[entry.documents].mean(), LEAST_KL)
        )
        for entry, score in pairs
    ]
    law = replace(law, document_error=root_mean_square(between) / 2**0.5)
    if not scores.recalled.size:
        return law
    lost, left = scores.lost, scores.recalled.mean(1)
    if sets:  # what they keep on the prompts that they were not chosen by
        lost = np.array([scores.sum_lost(entry.layout) for entry in sets])
        left = np.array([np.array(score.recalled)[~entry.prompts].mean() for entry, score in pairs])
    return replace(law, recall=RecallLaw.fit(lost, left))


def root_mean_square(values: Sequence[float] | np.ndarray) -> float:
    """0 without values."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def sample_sets(
    law: SetLaw, saves_ms: tuple[float, float], recall: float, count: int, seed: int
) -> list[SampledSet]:
    """Different sets as a choice makes them: by a random half of the documents and prompts, for
    random savings in a range, every second one with the floor of recall."""
    generator = np.random.default_rng(seed)
    documents, prompts = law.scores.kl.shape[1], law.scores.value_lost.shape[1]
    found: dict[Layout, SampledSet] = {}
    for attempt in range(20 * count):
        halves = [generator.permutation(size) < size // 2 for size in (documents, prompts)]
        save_ms = generator.uniform(*saves_ms)
        layout, _ = lowest_kl(law.at(*halves), save_ms, recall * (attempt % 2))
        if layout:
            found.setdefault(layout, SampledSet(layout, *halves))
        if len(found) == count:
            break
    return list(found.values())


# -- the choice ------------------------------------------------------------------------------------


def lowest_kl(law: SetLaw, save_ms: float, floor: float) -> tuple[Layout | None, float]:
    """The layout of `choose`, and the share of recall that it was to keep: the floor, or where no
    layout keeps that, the next tenth that one keeps."""
    while (layout := choose(law, save_ms, floor)) is None and floor:
        floor = max(round(floor - 0.1, 9), 0.0)
    return layout, floor


def choose(law: SetLaw, save_ms: float, floor: float) -> Layout | None:
    """The layout of the lowest KL by the law that saves enough, and whose recall keeps a floor even
    at the lower end of its interval; None where there is none. Exact, by an integer program: a
    variable for each change and for each pair of changes."""
    scores = law.scores
    choices, (first, second, together) = scores.choices, scores.pairs
    layers = np.unique([choice.layer for choice in choices], return_inverse=True)[1]
    # no pair is taken to cost less than both of its changes alone
    of_pairs = np.maximum(law.weights[1] + law.weights[2:], 0.0) * together
    first, second, of_pairs = first[of_pairs > 0], second[of_pairs > 0], of_pairs[of_pairs > 0]
    singles, pairs = len(choices), len(of_pairs)
    cost = np.concatenate([max(law.weights[0], LEAST_WEIGHT) * scores.mean_kl, of_pairs])
    one_of_a_layer = sparse.csr_array((np.ones(singles), (layers, np.arange(singles))))
    one_of_a_layer.resize(layers.max() + 1, singles + pairs)
    saved = np.zeros(singles + pairs)
    saved[:singles] = [choice.saved_ms / save_ms for choice in choices]
    constraints = [LinearConstraint(one_of_a_layer, ub=1), LinearConstraint(saved, lb=1)]
    if floor:
        lost = np.zeros(singles + pairs)
        lost[:singles] = law.recall.slope * scores.lost
        constraints.append(LinearConstraint(lost, ub=law.recall.most_lost(floor)))
    if pairs:  # both changes of a pair are made, or its variable may be 0
        rows = np.arange(pairs)
        both = sparse.csr_array(
            (
                np.repeat([1.0, 1.0, -1.0], pairs),
                (np.tile(rows, 3), np.concatenate([first, second, singles + rows])),
            )
        )
        constraints.append(LinearConstraint(both, ub=1))
    whole = np.arange(singles + pairs) < singles
    solved = milp(cost, integrality=whole, bounds=(0, 1), constraints=constraints)
    if solved.x is None:
        return None
    return tuple(choice for choice, made in zip(choices, solved.x, strict=False) if made > 0.5)


def resampled_layers(
    law: SetLaw, layout: Layout, save_ms: float, floor: float
) -> list[LayerChoice]:
    """What each layer becomes, and how sure that is: choose anew on resampled documents and
    prompts."""
    generator = np.random.default_rng(0)
    documents, prompts = law.scores.kl.shape[1], law.scores.value_lost.shape[1]
    others = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(documents, size=(documents,))
        asked = generator.integers(max(prompts, 1), size=(prompts,))
        other, _ = lowest_kl(law.at(drawn, asked), save_ms, floor)
        others.append({choice.layer: choice.name for choice in other or ()})
    chosen = {choice.layer: choice.name for choice in layout}
    found = []
    for layer in dict.fromkeys(choice.layer for choice in law.scores.choices):
        counts = Counter(other.get(layer, KEPT) for other in others)
        shares = {name: times / RESAMPLES for name, times in counts.most_common()}
        name = chosen.get(layer, KEPT)
        found.append(LayerChoice(layer, name, shares, shares.get(name, 0.0) >= DECIDED))
    return found


# -- as many changes elsewhere ---------------------------------------------------------------------


def elsewhere(
    kinds: Sequence[str],
    choices: Sequence[Choice],
    layout: Layout,
    order: Mapping[int, float] | None,
) -> Layout:
    """As many changes of each kind as a layout has, in other layers. kinds: of all layers; each
    kind apart. order: the layers of the lowest values come first; None: evenly spaced."""
    found = []
    for kind in dict.fromkeys(kinds[choice.layer] for choice in layout):
        names = [choice.name for choice in layout if kinds[choice.layer] == kind]
        layers = sorted({choice.layer for choice in choices if kinds[choice.layer] == kind})
        if order is None:
            step = len(layers) / len(names)
            layers = [layers[int((n + 0.5) * step)] for n in range(len(names))]
        else:
            layers = sorted(layers, key=order.__getitem__)
        wanted = set(zip(layers, names, strict=False))
        found += [choice for choice in choices if (choice.layer, choice.name) in wanted]
    return tuple(sorted(found, key=lambda choice: choice.layer))
