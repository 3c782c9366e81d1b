"""What ranks the networks of a search: a posterior of what is minimised.

Samplers, the front, the answer and the report know the protocol `Scorer` alone. Published trainings
are one scorer. The user's own full trainings, and the short trainings of a search, inform it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.documents import fingerprint
from flashnas.loss.composition import RANGE, aspect, body_sizes
from flashnas.loss.load import expected_of
from flashnas.loss.model import CHARGE, FullLoss, Prediction
from flashnas.loss.recall import RecallModel, load_recall
from flashnas.run_folder.answer import Reasons, Support
from flashnas.training.recipe import Recipe

REMEMBERED = 16_384  # networks whose figures are kept
TOGETHER = 512  # networks whose recall is computed at once


class Scorer(Protocol):
    """Architectures -> mean and covariance of what a search minimises.

    losses, where there is such an argument, are those of short trainings; None: not trained.

    Attributes:
        tokens: of the training that the user plans. extrapolated: it is longer or shorter than all
            that the scorer rests on.
        digest: changes with all that changes a figure; a run is continued only under the same.
    """

    @property
    def tokens(self) -> float: ...

    @property
    def extrapolated(self) -> bool: ...

    @property
    def digest(self) -> str: ...

    def posterior(
        self, networks: Sequence[Any], losses: Sequence[float | None] | None = None
    ) -> Prediction:
        """Mean [N] and covariance [N, N] of networks, up to one constant, in nats per token."""

    def values(
        self, networks: Sequence[Any], losses: Sequence[float | None] | None = None
    ) -> np.ndarray:
        """By which networks are ranked [N], in nats per token: the mean, plus what a network costs
        because nobody vouches for it."""

    def recalls(self, networks: Sequence[Any]) -> np.ndarray:
        """Expected recall [N] less that of the transformer of the same training."""

    def step_sds(self, networks: Sequence[Any]) -> np.ndarray:
        """Standard deviation [N] in nats of what a short training changes of the mean; 0 where it
        changes nothing."""

    def figures(self, network: Any, loss: float | None = None) -> Mapping[str, Any]:
        """The fields of a `Trial` that are expected of a network: EXPECTED_FIGURES, and `outside`."""

    def reasons(self, networks: Sequence[Any], losses: Sequence[float | None]) -> Reasons:
        """Parts of the difference of two networks, which add up to it, in nats per token."""

    def support(self, network: Any, other: Any) -> Support | None:
        """The published pairs that have the mixes of both networks; None where there are none."""

    def to_dict(self) -> dict[str, Any]:
        """For run.yaml."""


@dataclass(frozen=True, eq=False)
class EvidenceScorer:
    """Published trainings: the loss and the recall to expect of a full training.

    tokens: of the training that the user plans. recipe: of the short trainings, where the model can
    read their losses; else None. source: what `model` rests on, for the record.
    """

    model: FullLoss
    recall: RecallModel
    tokens: float
    recipe: Recipe | None
    source: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return fingerprint([dict(self.source), self.tokens, CHARGE, self.recipe is not None])

    def posterior(
        self, networks: Sequence[Architecture], losses: Sequence[float | None] | None = None
    ) -> Prediction:
        return self.model.predict_networks(networks, self.tokens)

    def values(
        self, networks: Sequence[Architecture], losses: Sequence[float | None] | None = None
    ) -> np.ndarray:
        if not networks:
            return np.zeros(0)
        charge = CHARGE * self.model.silence(networks, self.tokens)
        return np.asarray(self.posterior(networks, losses).mean + charge)

    def recalls(self, networks: Sequence[Architecture]) -> np.ndarray:
        parts = [
            self.recall.predict(
                [network.operators for network in networks[start : start + TOGETHER]]
            )[0]
            for start in range(0, len(networks), TOGETHER)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def step_sds(self, networks: Sequence[Architecture]) -> np.ndarray:
        return np.zeros(len(networks))

    @functools.lru_cache(maxsize=REMEMBERED)  # noqa: B019 - as long as the search
    def figures(self, network: Any, loss: float | None = None) -> Mapping[str, Any]:
        """EXPECTED_FIGURES of a network, and `outside`: what of it no publication has, in words."""
        if not isinstance(network, Architecture):
            return {}
        found = expected_of(network, self.tokens, self.model, self.recall)
        return {
            "full_loss": found.full_loss,
            "full_loss_sd": found.full_loss_sd,
            "silence": float(self.model.silence([network], self.tokens)[0]),
            "expected_recall": found.recall,
            "expected_recall_sd": found.recall_sd,
            "outside": "; ".join(found.outside),
        }

    def reasons(self, networks: Sequence[Architecture], losses: Sequence[float | None]) -> Reasons:
        parts = self.model.parts_of(self.model.table(networks, self.tokens), 0, 1)
        # of the size, what the ratio of width to depth makes
        sizes = np.array([body_sizes(network.operators, network.hidden) for network in networks])
        counted = np.sqrt(sizes[:, 0] * sizes[:, 1])
        widths = np.array([network.hidden for network in networks], float)
        bends = self.model.law.c * (aspect(counted, widths) - self.model.law.r0) ** 2
        shape = float(self.model.coefficients()["law"][0] * (bends[0] - bends[1]))
        return {
            "size": parts["size"] - shape,
            "shape": shape,
            "mix": parts["mix"],
            "training": 0.0,
        }

    def support(self, network: Architecture, other: Architecture) -> Support | None:
        from flashnas.observations.losses import (  # loads pandas
            composition,
            groups_without_repeats,
            read_published,
        )

        mixes = composition(network.operators), composition(other.operators)
        if mixes[0] == mixes[1]:
            return None
        rows, gaps, publications = read_published(), [], []
        for group in groups_without_repeats(rows).values():
            ours = [rows[index] for index in group if composition(rows[index].specs) == mixes[0]]
            theirs = [rows[index] for index in group if composition(rows[index].specs) == mixes[1]]
            for row in ours:
                gaps += [row.nats - other.nats for other in theirs]
            if ours and theirs:
                publications.append(ours[0].source)
        if not gaps:
            return None
        better = sum(gap < 0 for gap in gaps)
        return {
            "pairs": len(gaps),
            "better": better,
            "publications": list(dict.fromkeys(publications)),
        }

    @property
    def extrapolated(self) -> bool:
        """Beyond the lengths of publications."""
        return not RANGE[0] <= self.tokens <= RANGE[1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "train_tokens": self.tokens,
            "charge": CHARGE,
            "source": dict(self.source),
            "reads_short_loss": self.recipe is not None,
        }


def load_scorer(
    own: str | None, tokens: float, recipe: Recipe | None, note: Callable[[str], None]
) -> EvidenceScorer:
    """The published trainings, with the user's own where there are any.

    Args:
        own: the file of the user's full trainings.
        tokens: of the training that is planned.
        recipe: of the short trainings.
        note: receives a line where own trainings contradict.

    Raises:
        ConfigError: the file of own trainings is wrong.
    """
    from flashnas.loss.load import digest, digests, loss_model

    source: dict[str, Any] = {"shipped": digests()}
    model = loss_model(own)
    if own is not None:
        from flashnas.loss.publications import contradiction_of_own

        source["own"] = {"path": own, "sha256": digest(Path(own))}
        if words := contradiction_of_own(own):
            note(words)
    return EvidenceScorer(model, load_recall(), tokens, None, source)
