"""What ranks the networks of a search: a posterior of what is minimised.

It is of the full training that is planned: of so many tokens, or of as many as some hours of a device
bring each network. Samplers, the front, the answer and the report know the protocol `Scorer` alone.
Observed losses are one scorer: those of publications, the user's own, and those of trainings of the
search.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.base.documents import fingerprint
from flashnas.families.family import attends_to_all, interval_of
from flashnas.latency.schema import Device
from flashnas.loss.composition import Table
from flashnas.loss.load import digest, digests, expected_of, load_recall, loss_model
from flashnas.loss.mix import bodies
from flashnas.loss.model import CHARGE, FullLoss, Prediction
from flashnas.loss.own import OWN, own_rows
from flashnas.loss.recall import RecallModel
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.recorded_answer import Reasons
from flashnas.training.cost import ASSUMED_UTILISATION, BACKWARD, H100_FLOPS

REMEMBERED = 16_384  # networks whose figures are kept
# decimals of nats and milliseconds in which networks of the same operators agree, on any CPU
ALIKE = 9
TOGETHER = 4096  # networks whose covariance with the observed ones is in memory at once
# nats for each thing that nobody can measure as a loss and everybody pays for as work
COMPLEXITY_NATS = 0.002
EVEN_WIDTH = 256
# of the rate of a dense training with as many active parameters: 23,600 of 37,500 tokens/s on an H100
# (arXiv 2409.02060, section 4.1)
SPARSE_RATE = 0.63


class Scorer(Protocol):
    """Architectures -> mean and covariance of what a search minimises.

    A search gives `values` and `recalls` any sequence of networks, most often `Networks`, thousands
    of them as arrays, which builds an Architecture where it is indexed or iterated over.

    Attributes:
        tokens: of the training that the user plans; None: each network has its own.
        digest: changes with all that changes a figure; a run is continued only under the same.

    Example:
        >>> import flashnas as fn
        >>> from flashnas.study.scorer import load_scorer
        >>> scorer: fn.Scorer = load_scorer(None, 1e11)      # of published trainings
        >>> scorer.values([fn.Architecture.parse("2048: 12x(a f)")]).shape
        (1,)
    """

    @property
    def tokens(self) -> float | None: ...

    @property
    def digest(self) -> str: ...

    def posterior(self, networks: Sequence[Any]) -> Prediction:
        """Mean [N] and covariance [N, N] of networks, up to one constant, in nats per token."""

    def values(self, networks: Sequence[Any]) -> np.ndarray:
        """By which networks are ranked [N], in nats per token; lower is better."""

    def recalls(self, networks: Sequence[Any]) -> np.ndarray:
        """Expected recall [N] less that of the transformer of the same training."""

    def figures(self, network: Any) -> Mapping[str, Any]:
        """The fields of a `Trial` that are expected of a network: EXPECTED_FIGURES, and `outside`."""

    def reasons(self, networks: Sequence[Any]) -> Reasons:
        """Parts of the difference of two networks, which add up to it, in nats per token."""

    def to_dict(self) -> dict[str, Any]:
        """For run.yaml."""


@dataclass(frozen=True, kw_only=True)
class FullTraining:
    """A training without validations.

    Args:
        tokens: of each network; None: as many as `hours` bring.
        hours: of one device, named `device`, that computes `peak_flops` per second in bfloat16.
        utilisation: share of these that the trainer reaches; 0.4 of a tuned one. Networks with
            experts train at SPARSE_RATE of it.
        context: tokens of a text, which attention sees.
        count: full trainings of the mix, which share the hours of short ones.

    Example:
        >>> import flashnas as fn
        >>> small, large = map(fn.Architecture.parse, ("1024: 12x(a f)", "2048: 24x(a f)"))
        >>> tokens = FullTraining(hours=1_000).tokens_of([small, large])
        >>> [f"{number / 1e9:.0f}B" for number in tokens]
        ['655B', '149B']
    """

    tokens: float | None = None
    hours: float | None = None
    device: str = "h100_sxm"
    peak_flops: float = H100_FLOPS
    utilisation: float = 0.4
    context: int = 4096
    count: int = 1

    def on(self, device: Device) -> FullTraining:
        """The same on the device of a latency table; on an H100, unless that is a GPU."""
        if device.platform != "cuda":
            return self
        peak = {"device": device.label or device.name, "peak_flops": device.peak_flops}
        return FullTraining(**{**vars(self), **peak})

    def tokens_of(self, networks: Sequence[Architecture]) -> np.ndarray:
        """Of the training of each network [N]."""
        if self.tokens is not None:
            return np.full(len(networks), self.tokens)
        return (self.hours or 0.0) * self._tokens_per_hour(networks)

    def hours_of(self, network: Architecture) -> float:
        """Of the device, for the training of a network."""
        if self.tokens is None:
            return self.hours or 0.0
        return float(self.tokens / self._tokens_per_hour([network])[0])

    def share_of(self, network: Architecture, hours: Any) -> Any:
        """Hours of short trainings as a share of those of all full ones; an array or a number."""
        return hours / (self.count * self.hours_of(network))

    def short_hours(self, flops: Any, *, sparse: bool = False) -> Any:
        """Of the device, for short trainings of so many FLOPs, an array or a number: they reach
        ASSUMED_UTILISATION of its FLOP/s, and with experts SPARSE_RATE of that."""
        rate = ASSUMED_UTILISATION * (SPARSE_RATE if sparse else 1.0)
        return flops / (3600 * rate * self.peak_flops)

    def _tokens_per_hour(self, networks: Sequence[Architecture]) -> np.ndarray:
        if isinstance(networks, Networks):
            forward = networks.flops_per_token(self.context)
            sparse = networks.active_params < networks.params
        else:
            forward = np.array([network.flops_per_token(self.context) for network in networks])
            sparse = np.array([each.active_params < each.params for each in networks], bool)
        rates = self.utilisation * self.peak_flops * np.where(sparse, SPARSE_RATE, 1.0)
        return 3600 * rates / (forward * (1 + BACKWARD))


@dataclass(frozen=True, eq=False)
class EvidenceScorer:
    """Observed losses: the loss and the recall to expect of a full training.

    model: rests on publications, on `own` losses of the user's, and on those that the search
    `trained`; recall: None where publications are left out. training: that the user plans. source:
    what `model` rests on, for the record.
    """

    model: FullLoss
    recall: RecallModel | None
    training: FullTraining
    source: Mapping[str, Any]
    own: tuple[ObservedLoss, ...] = ()
    trained: tuple[ObservedLoss, ...] = ()

    @property
    def digest(self) -> str:
        training = self.tokens or vars(dataclasses.replace(self.training, count=1))
        return fingerprint([dict(self.source), training, CHARGE, COMPLEXITY_NATS])

    @property
    def tokens(self) -> float | None:
        return self.training.tokens

    @property
    def published(self) -> bool:
        """Whether publications are read."""
        return self.recall is not None

    @functools.cached_property
    def publications(self) -> FullLoss:
        """The model without own rows."""
        return loss_model(published=self.published)

    @property
    def reliability(self) -> float:
        """Of the user's own trainings, as their gaps ask for."""
        return self.model.spreads.reliability.get(OWN, 1.0)

    @property
    def rows(self) -> list[ObservedLoss]:
        """All that the user trained."""
        return [*self.own, *self.trained]

    @property
    def ranked_by(self) -> str:
        """What the expected losses follow from."""
        names = ["published"] * self.published + ["own"] * bool(self.rows)
        return f"{' and '.join(names)} trainings"

    def informed_by(self, trained: Sequence[ObservedLoss]) -> Self:
        """The scorer that knows these losses, too, in place of those of before."""
        rows = [*self.own, *trained]
        model = loss_model(rows or None, published=self.published)
        return dataclasses.replace(self, model=model, trained=tuple(trained))

    def tokens_of(self, networks: Sequence[Architecture]) -> np.ndarray:
        """Of the full training of each network [N]."""
        return self.training.tokens_of(networks)

    def table(self, networks: Sequence[Architecture]) -> Table:
        """The full trainings of networks as the model sees them."""
        return self.model.table(networks, self.tokens_of(networks))

    def posterior(self, networks: Sequence[Architecture]) -> Prediction:
        return self.model.predict(self.table(networks))

    def values(self, networks: Sequence[Architecture]) -> np.ndarray:
        """Mean, charge for what no observation tells, and price of complexity."""
        starts = range(0, len(networks), TOGETHER)
        together = [networks[start : start + TOGETHER] for start in starts]
        parts = [self._values(each, self.table(each)) for each in together]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _values(self, networks: Sequence[Architecture], table: Table) -> np.ndarray:
        charge = CHARGE * self.model.silence(table)
        price = COMPLEXITY_NATS * complexities(networks)
        return np.round(self.model.mean(table) + charge + price, ALIKE)

    def recalls(self, networks: Sequence[Architecture]) -> np.ndarray:
        if self.recall is None:
            return np.zeros(len(networks))
        each, of = bodies(networks).each_composition
        return np.round(self.recall.expected(each), ALIKE)[of]

    @functools.lru_cache(maxsize=REMEMBERED)  # noqa: B019 - as long as the search
    def figures(self, network: Any) -> Mapping[str, Any]:
        """EXPECTED_FIGURES of a network, and `outside`: what of it no publication has, in words."""
        tokens = float(self.tokens_of([network])[0])
        table, recall = self.table([network]), self.recall or load_recall()
        found = expected_of(network, tokens, self.model, recall, table)
        silence = float(self.model.silence(table)[0])
        return {
            "value": float(self._values([network], table)[0]),
            "full_loss": found.full_loss,
            "full_loss_sd": found.full_loss_sd,
            "silence": silence,
            "expected_recall": found.recall if self.published else None,
            "expected_recall_sd": found.recall_sd if self.published else None,
            "outside": "; ".join(found.outside),
        }

    def reasons(self, networks: Sequence[Architecture]) -> Reasons:
        table = self.table(networks)
        parts = self.model.parts_of(table, 0, 1)
        # of the size, what the ratio of width to depth makes
        bends = self.model.law.c * table.shape**2
        shape = float(self.model.coefficients()["law"][0] * (bends[0] - bends[1]))
        return {"size": parts["size"] - shape, "shape": shape, "mix": parts["mix"]}

    def to_dict(self) -> dict[str, Any]:
        return {
            "train_tokens": self.tokens,
            "train_hours": self.training.hours,
            "charge": CHARGE,
            "complexity": COMPLEXITY_NATS,
            "source": dict(self.source),
        }


def complexities(networks: Sequence[Architecture]) -> np.ndarray:
    """What makes networks harder to serve than others [N]: each kind of recurrence beyond one,
    attention that stands at no one distance, meta tokens, a width that is not a multiple of
    EVEN_WIDTH."""
    body = bodies(networks)
    each, of = body.each_composition
    kinds = np.array([spec.kind for spec, _ in each.pairs], object)
    others = {s.kind for s, _ in each.pairs if s.mixes_tokens and s.family != "attention"}
    recurrences = sum((each.totals_of(kinds == kind) > 0 for kind in others), np.zeros(len(each)))
    attends = each.totals(lambda spec, _: attends_to_all(spec)) > 0
    distances = [interval_of(each.compositions[index])[0] for index in each.composition]
    meta = (
        [networks.meta_tokens]
        if isinstance(networks, Networks)
        else [n.meta_tokens for n in networks]
    )
    return (
        (np.maximum(recurrences - 1, 0) + (attends & (np.array(distances) == 0)))[of]
        + (np.array(meta) > 0)
        + (body.hidden % EVEN_WIDTH > 0)
    )


def load_scorer(
    own: str | None,
    training: float | FullTraining,
    *,
    published: bool = True,
    known: Sequence[ObservedLoss] = (),
) -> EvidenceScorer:
    """The published trainings, with the user's own where there are any.

    Args:
        own: the file of the user's trainings.
        training: that is planned, or its tokens.
        published: whether publications are read.
        known: further trainings of the user's.

    Raises:
        ConfigError: the file of own trainings is wrong.
    """
    source: dict[str, Any] = {"shipped": digests()} if published else {}
    rows = list(known)
    if own is not None:
        rows = [*own_rows(own), *known]
        source["own"] = {"path": own, "sha256": digest(Path(own))}
    recall = load_recall() if published else None
    model = loss_model(rows or None, published=published)
    if not isinstance(training, FullTraining):
        training = FullTraining(tokens=training)
    return EvidenceScorer(model, recall, training, source, tuple(rows))
