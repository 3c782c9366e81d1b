"""What is expected of a full training of a network, before and after its short training, for one
search.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.fingerprint import fingerprint
from flashnas.evidence.composition import FEATURES, SILENT, body_sizes, outside_support
from flashnas.evidence.full_loss import SILENT_SDS, FullLoss, Prediction
from flashnas.evidence.law import RANGE, aspect
from flashnas.evidence.recall import RecallModel, load_recall
from flashnas.training.recipe import Recipe

REMEMBERED = 16_384  # networks whose figures are kept
TOGETHER = 512  # networks whose recall is computed at once
# of a short loss beyond what follows from size, shape and mix, in nats: assumed for networks that
# nobody trained. Over the 306 networks of the shipped bench, to which the response was fitted, it
# is 0.034
BEYOND_SD = 0.05
PESSIMISM = 1.0  # standard deviations
OVERSTATED = 3.0  # times that a short training shows of a difference between mixes


@dataclass(frozen=True, eq=False)
class Foresight:
    """The models of one search.

    tokens: of the training that the user plans. reference: the pure stack that is expected to be
    the best, to which standard deviations are taken. recipe: of the short trainings, where the
    model can read their losses; else None. source: what `model` rests on, for the record.
    """

    model: FullLoss
    recall: RecallModel
    tokens: float
    reference: Architecture
    recipe: Recipe | None
    source: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return fingerprint(
            [dict(self.source), self.tokens, self.reference.hash, self.recipe is not None]
        )

    def predict(
        self, networks: Sequence[Architecture], losses: Sequence[float | None] | None = None
    ) -> Prediction:
        """The full loss of the reference, which comes first, and of the networks. losses: of their
        short trainings, or None."""
        beyond = [
            0.0,
            *(
                self.beyond(network, loss)
                for network, loss in zip(networks, losses or [None] * len(networks), strict=True)
            ),
        ]
        return self.model.predict_networks([self.reference, *networks], self.tokens, beyond)

    def beyond(self, network: Architecture, loss: float | None) -> float:
        """What the loss of a short training says beyond size, shape and mix, in nats."""
        if loss is None or self.recipe is None:
            return 0.0
        return self.model.beyond(self.recipe.proxy_of(network), loss)

    def value(self, networks: Sequence[Architecture]) -> np.ndarray:
        """By which networks are ranked without any training [N], in nats per token: the full loss
        and PESSIMISM standard deviations of its difference to the reference, so that nothing is
        gained where nobody knows."""
        if not networks:
            return np.zeros(0)
        prediction = self.predict(networks)
        return np.asarray(prediction.mean[1:] + PESSIMISM * prediction.sd_to(0)[1:])

    def recalls(self, networks: Sequence[Architecture]) -> np.ndarray:
        """Recall [N] less that of the transformer of the same training, of full marks."""
        parts = [
            self.recall.predict(
                [network.operators for network in networks[start : start + TOGETHER]]
            )[0]
            for start in range(0, len(networks), TOGETHER)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    @functools.lru_cache(maxsize=REMEMBERED)  # noqa: B019 - as long as the search
    def figures(self, network: Any, loss: float | None = None) -> Mapping[str, Any]:
        """EXPECTED_FIGURES of a network, and `outside`: what of it no publication has, in words."""
        if not isinstance(network, Architecture):
            return {}
        prediction = self.predict([network], [loss])
        mean, covariance = self.recall.predict([network.operators])
        return {
            "full_loss": float(prediction.mean[1]),
            "full_loss_sd": float(prediction.sd_to(0)[1]),
            "expected_recall": float(mean[0]),
            "expected_recall_sd": float(np.sqrt(covariance[0, 0])),
            "outside": "; ".join(outside_support(network, self.tokens)),
        }

    def moves(self, networks: Sequence[Architecture]) -> np.ndarray:
        """The standard deviation [N] in nats of what a short training changes of the full loss;
        larger where publications are silent."""
        if self.recipe is None or not networks:
            return np.zeros(len(networks))
        kappa = self.model.coefficients()["beyond"][0]
        return np.asarray(
            kappa * np.hypot(BEYOND_SD, OVERSTATED * silence(self.model, networks, self.tokens))
        )

    def shape_part(self, both: Sequence[Architecture]) -> float:
        """Of the difference of two networks, what their ratio of width to depth makes."""
        sizes = np.array([body_sizes(network.operators, network.hidden) for network in both])
        counted, widths = (
            np.sqrt(sizes[:, 0] * sizes[:, 1]),
            np.array([each.hidden for each in both], float),
        )
        bends = self.model.law.c * (aspect(counted, widths) - self.model.law.r0) ** 2
        return float(self.model.coefficients()["law"][0] * (bends[0] - bends[1]))

    @property
    def extrapolated(self) -> bool:
        """Beyond the lengths of publications."""
        return not RANGE[0] <= self.tokens <= RANGE[1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "train_tokens": self.tokens,
            "reference": self.reference.notation,
            "source": dict(self.source),
            "reads_short_loss": self.recipe is not None,
        }


def recipe_read(recipe: Recipe | None) -> Recipe | None:
    """The recipe, if short losses under it were held against publications; else None."""
    from flashnas.evidence.load import fitted  # loads pandas

    return recipe if recipe is not None and recipe.digest == fitted()["recipe"] else None


def load_models(
    own: str | None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[FullLoss, RecallModel, dict[str, Any]]:
    """The models, with the user's own trainings where there are any, and what they rest on. note
    receives a line where own trainings contradict. Raises ConfigError where their file is wrong."""
    from flashnas.evidence.load import digest, digests, full_loss

    source: dict[str, Any] = {"shipped": digests()}
    model = full_loss(own)
    if own is not None:
        from flashnas.evidence.publications import contradiction

        source["own"] = {"path": own, "sha256": digest(Path(own))}
        if words := contradiction(own):
            note(words)
    return model, load_recall(), source


def silence(model: FullLoss, networks: Sequence[Architecture], tokens: float) -> np.ndarray:
    """Standard deviation [N] in nats that stems from what publications do not vouch for."""
    if not networks:
        return np.zeros(0)
    x = model.table(networks, tokens).x[:, len(FEATURES) :]
    return np.linalg.norm(x * [SILENT_SDS[name] for name in SILENT], axis=1)
