"""How changes of layers add up: what single changes say of sets of them, and how sure that is.

Single changes are measured alone. The KL of a set is more than their sum, since KL is quadratic in
what the changes do together: a pair adds twice the root of its product times a correlation. The
correlation falls with the distance of the layers, and differs from pair to pair. How much it is, is
learnt from sets that are measured, by Bayesian linear regression; the error of a prediction is that
of sets which the law has not seen, and what another draw of documents changes.

Shapes: C single changes, N documents, P prompts, Q pairs of changes, S measured sets.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from flashnas.base.text import INTERVAL_90
from flashnas.conversion.choices import Choice, Layout
from flashnas.conversion.found import LayoutPrediction
from flashnas.conversion.recall import RecallLaw
from flashnas.training.teacher_text import TextScore, student_t

DECAY = 4.0  # operators of distance over which the correlation of two changes falls to 1/e
FARTHEST = 8  # operators; changes farther apart are taken for unrelated
LEAST_KL = 1e-5  # nats; below it a change is free
LEAST_WEIGHT = 0.1  # of the sum of changes in a choice
# before sets are measured changes add up, and pairs add nothing; standard deviations of that: of
# the weights of both sums, and what is tried for each pair and for what pairs do not explain
SUMS_SD = 1.0
PAIRS_SD = (0.25, 0.5, 1.0, 2.0)
NOISE = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class SingleScores:
    """The single changes, each alone. kl [C, N]; recalled, value_lost [C, P]: as in TextScore."""

    choices: Sequence[Choice]
    kl: np.ndarray
    recalled: np.ndarray
    value_lost: np.ndarray

    @classmethod
    def of(cls, choices: Sequence[Choice], measured: Sequence[TextScore]) -> Self:
        kl = np.array([score.kl for score in measured])
        recalled = np.array([score.recalled for score in measured])
        return cls(choices, kl, recalled, np.array([score.value_lost for score in measured]))

    def at(self, documents: np.ndarray, prompts: np.ndarray) -> Self:
        """The scores of these documents and prompts; one may be there several times."""
        return replace(
            self,
            kl=self.kl[:, documents],
            recalled=self.recalled[:, prompts],
            value_lost=self.value_lost[:, prompts],
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """N, P"""
        return self.kl.shape[1], self.value_lost.shape[1]

    @functools.cached_property
    def mean_kl(self) -> np.ndarray:
        """[C]"""
        return np.maximum(self.kl.mean(1), LEAST_KL)

    @functools.cached_property
    def lost(self) -> np.ndarray:
        """Nats by which the values of probes lose [C]; 0 without prompts."""
        return self.value_lost.sum(1) / max(self.value_lost.shape[1], 1)

    @functools.cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of changes of layers that are near each other: rows of both [Q], and twice the root
        of the product of their KL times the correlation at their distance [Q]."""
        layers = np.array([choice.layer for choice in self.choices])
        first, second = np.triu_indices(len(layers), 1)
        distance = abs(layers[second] - layers[first])
        near = (distance > 0) & (distance <= FARTHEST)
        first = first[near]
        second = second[near]
        distance = distance[near]
        together = np.sqrt(self.mean_kl[first] * self.mean_kl[second])
        return first, second, 2 * together * np.exp(-distance / DECAY)

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


@dataclass(frozen=True, eq=False)
class SampledSet:
    """documents [N], prompts [P]: the halves that it was chosen by, bool."""

    layout: Layout
    documents: np.ndarray
    prompts: np.ndarray


@dataclass(frozen=True, eq=False)
class SetLaw:
    """KL of a set = weights x its `features` by the scores of single changes.

    weights [2 + Q]: their means. variances [2 + Q]: of each before sets were measured. seen [S, 2 +
    Q]: features of these sets over their KL, since relative errors count; inverse [S, S]: of the
    covariance of what the weights make of them. noise: standard deviation of what pairs do not
    explain. document_error: of the logarithm, by another draw of as many documents, which all
    layouts that are measured on it share. set_error: root mean square of the errors on sets, each
    left out in turn. recall: of the sum of `lost`.
    """

    scores: SingleScores
    weights: np.ndarray
    variances: np.ndarray
    seen: np.ndarray
    inverse: np.ndarray
    noise: float
    set_error: float
    document_error: float = 0.0
    recall: RecallLaw = field(default_factory=RecallLaw)

    def at(self, documents: np.ndarray, prompts: np.ndarray) -> Self:
        """The law of the scores of these documents and prompts."""
        return replace(self, scores=self.scores.at(documents, prompts))

    def predict(self, layout: Layout) -> LayoutPrediction:
        features = self.scores.features(layout)
        kl = max(float(self.weights @ features), LEAST_KL)
        with_seen = self.seen @ (self.variances * features)
        variance = features @ (self.variances * features) - with_seen @ self.inverse @ with_seen
        of_law = INTERVAL_90 * np.sqrt(max(variance, 0.0) / kl**2 + self.noise**2)
        of_documents = student_t(self.scores.kl.shape[1]) * self.document_error
        factor = float(np.exp(np.hypot(of_law, of_documents)))
        recall = self.recall.predict(self.scores.sum_lost(layout))
        return LayoutPrediction(kl, kl / factor, kl * factor, *recall)

    def costs(self) -> tuple[np.ndarray, np.ndarray]:
        """Nats that a choice counts for each change [C], and on top for both of a pair [Q]: no pair
        is taken to cost less than both of its changes alone."""
        alone = self.weights[0]
        together = self.weights[1] + self.weights[2:]
        of_pairs = np.maximum(together, 0.0) * self.scores.pairs[2]
        return max(alone, LEAST_WEIGHT) * self.scores.mean_kl, of_pairs

    def summary(self) -> dict[str, float]:
        return {
            "sets": len(self.seen),
            "set_error": self.set_error,
            "document_error": self.document_error,
            "recall_error": self.recall.error,
        }


def fit_law(
    scores: SingleScores, sets: Sequence[SampledSet], measured: Sequence[TextScore]
) -> SetLaw:
    """The law of sets that were measured on the documents of the single changes; without sets, that
    a set costs the sum of its changes."""
    kl_SN = np.array([score.kl for score in measured]).reshape(len(sets), scores.sizes[0])
    layouts = [entry.layout for entry in sets]
    law = fit_weights(scores, layouts, np.maximum(kl_SN.mean(1), LEAST_KL))
    if sets:
        halves_SN = np.array([entry.documents for entry in sets])
        one_S, other_S = (
            np.maximum(kl_SN.mean(1, where=half_SN), LEAST_KL)
            for half_SN in (halves_SN, ~halves_SN)
        )
        # between halves of the documents the logarithm differs with twice the variance
        law = replace(law, document_error=root_mean_square(np.log(other_S / one_S)) / 2**0.5)
    if not scores.recalled.size:
        return law
    lost_S, left_S, recalled_SP = scores.lost, scores.recalled.mean(1), scores.recalled
    if sets:
        lost_S = np.array([scores.sum_lost(layout) for layout in layouts])
        recalled_SP = np.array([score.recalled for score in measured])
        left_S = recalled_SP.mean(1, where=~np.array([entry.prompts for entry in sets]))
    return replace(law, recall=RecallLaw.fit(lost_S, left_S, recalled_SP))


def fit_weights(scores: SingleScores, layouts: Sequence[Layout], kl_S: np.ndarray) -> SetLaw:
    """How much pairs differ, and how much they leave unexplained, is what makes the sets that were
    measured the likeliest."""
    seen = np.zeros((len(layouts), 2 + len(scores.pairs[0])))
    for row, layout in enumerate(layouts):
        seen[row] = scores.features(layout) / kl_S[row]
    unexplained = 1 - seen[:, 0]

    def fitted(pairs_sd: float, noise: float) -> tuple[float, SetLaw]:
        variances = np.full(seen.shape[1], pairs_sd**2)
        variances[:2] = SUMS_SD**2
        covariance = (seen * variances) @ seen.T + noise**2 * np.eye(len(layouts))
        inverse = np.linalg.inv(covariance)
        weights = variances * (seen.T @ inverse @ unexplained)
        weights[0] += 1
        likelihood = -unexplained @ inverse @ unexplained - np.linalg.slogdet(covariance)[1]
        left_out = root_mean_square(inverse @ unexplained / np.diag(inverse))
        return likelihood, SetLaw(scores, weights, variances, seen, inverse, noise, left_out)

    tried = itertools.product(PAIRS_SD, NOISE)
    return max(itertools.starmap(fitted, tried), key=lambda found: found[0])[1]


def root_mean_square(values: np.ndarray) -> float:
    """0 without values."""
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0
