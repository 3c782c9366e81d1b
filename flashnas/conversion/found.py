"""What a conversion finds: its figures, as run.yaml and `--json` have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Nats = Annotated[float, Meta(ge=-1e-3, le=1e9)]  # a KL of 0 may be rounded to less
Half = Annotated[float, Meta(ge=0, le=1e9)]  # of an interval
MOST_CHARACTERS = 2000  # of a text that is shown
Words = Annotated[str, Meta(max_length=MOST_CHARACTERS)]


@dataclass(frozen=True)
class LayoutPrediction:
    """Of a layout on text that nothing was chosen by: KL in nats per token and recall as a share
    of the model's own, each with its 90 % interval."""

    kl: float
    kl_low: float
    kl_high: float
    recall: float
    recall_low: float
    recall_high: float


@dataclass(frozen=True, kw_only=True)
class LayoutFigures:
    """Measured of a layout. kl, loss: nats per token; kl_half: half of the 90 % interval. recall:
    share of the model's own; None where the model does no probe of this text."""

    kl: Nats
    kl_half: Half
    loss: float
    recall: float | None


@dataclass(frozen=True, kw_only=True)
class SingleChange(LayoutFigures):
    """One change alone. kind: such as `a to none`."""

    layer: int
    kind: str
    saved_ms: float


@dataclass(frozen=True, kw_only=True)
class Finalist(LayoutFigures):
    """A layout on fresh text. share: of the model's milliseconds. inside: whether the KL lies in the
    predicted interval. refused: why it is no answer; "" where it is one. memory_gb: as that of the
    model."""

    layout: str
    notation: str
    latency_ms: float
    share: float
    answers_a_budget: bool
    predicted: LayoutPrediction
    inside: bool
    refused: str
    memory_gb: float | None = None


@dataclass(frozen=True)
class LayerChoice:
    """What a layer becomes. shares: of the resamples, by what they make of it."""

    layer: int
    chosen: str
    shares: dict[str, float]
    decided: bool


@dataclass(frozen=True)
class BudgetAnswer:
    """The layout for a budget. recall_floor: share of the recall that the lower end of the
    predicted interval keeps. refused: as of its Finalist. weights: their folder; None where it is
    refused."""

    budget_ms: float
    latency_ms: float
    layout: str
    recall_floor: float
    refused: str
    weights: str | None
    layers: list[LayerChoice]


@dataclass(frozen=True)
class TrainedReplacements:
    """How layers were trained that take the place of attention. curve: (tokens, mean over the
    layers of the held-out error: the squared difference as a share of the square of what attention
    writes)."""

    tokens: int
    seconds: float
    curve: Annotated[list[tuple[int, float]], Meta(min_length=1)]


@dataclass(frozen=True)
class ConversionFound:
    """What a conversion found.

    run: its folder. data: the text, as it was named. notation: of the model. times: where
    milliseconds are from. model_ms, loss: the model's own; probes_done: recall probes that it does,
    of `probes`. law: how changes add up. fresh_loss: the model's own on the text of the finalists.
    memory_gb: as `flashnas estimate` has it. context, request: tokens of a context that is scored,
    and of a request. texts: for each beginning of the fresh text the `beginning` itself, and how it
    goes on by greedy decoding, by `model` and by the name of each folder of weights. Older
    folders lack these.
    """

    run: str
    model: str
    notation: str
    times: str
    model_ms: Annotated[float, Meta(gt=0)]
    loss: float
    probes_done: int
    probes: int
    law: dict[str, float]
    singles: list[SingleChange]
    finalists: list[Finalist]
    answers: Annotated[list[BudgetAnswer], Meta(min_length=1)]
    replacements: TrainedReplacements | None = None
    data: str = "sotu"
    fresh_loss: float | None = None
    memory_gb: float | None = None
    context: int = 0
    request: int = 0
    texts: tuple[dict[str, Words], ...] = ()
