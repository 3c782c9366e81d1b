"""What each layer of a pretrained model may become, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.base.text import meant, number_of
from flashnas.families.family import DECILM_STEP, WIDTH_STEP
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet

KEPT, NONE = "kept", "none"


# operators that are trained to take the place of an attention -> what they are there: with as many
# heads as attention has for queries, of the same size
REPLACEMENTS: Mapping[str, Callable[[Attention], OperatorSpec]] = {
    "gd": lambda attention: GatedDeltaNet(k_heads=attention.heads, head_dim=attention.head_dim)
}


@dataclass(frozen=True)
class Choice:
    """What one layer becomes. layer: its number among the operators. name: `none`, `window 256`,
    `width 768`, `gd`. spec: None where the layer goes. saved_ms: of the request, by that
    change alone."""

    layer: int
    name: str
    spec: OperatorSpec | None
    saved_ms: float = 0.0

    @property
    def key(self) -> str:
        """`17:none`: as measurements record it."""
        return f"{self.layer}:{self.name}"


Layout = tuple[Choice, ...]  # the layers that change, in order; all others are kept


def key_of(layout: Layout) -> str:
    return ", ".join(choice.key for choice in layout)


def converted(teacher: Architecture, layout: Layout) -> Architecture:
    """The architecture with changed layers."""
    changed = {choice.layer: choice.spec for choice in layout}
    operators = [changed.get(n, spec) for n, spec in enumerate(teacher.operators)]
    return replace(teacher, operators=tuple(spec for spec in operators if spec is not None))


def possible(
    teacher: Architecture,
    windows: Sequence[int],
    widths: Sequence[float],
    keep: Sequence[str] = (),
    replacements: Sequence[str] = (),
) -> list[Choice]:
    """All choices, whatever they save.

    Args:
        windows: tokens that windowed attention sees.
        widths: shares of a feed-forward network's columns.
        keep: kinds of operators that stay as they are.
        replacements: kinds of REPLACEMENTS that are trained.
    """
    found = []
    for layer, spec in enumerate(teacher.canonical().operators):
        changes: dict[str, OperatorSpec | None] = {}
        if spec.kind in keep or not isinstance(spec, Attention | FeedForward):
            continue
        if isinstance(spec, FeedForward):
            # where a model's own widths are in the steps that programs read, the narrower ones are
            step = WIDTH_STEP if spec.intermediate % DECILM_STEP else DECILM_STEP
            for share in () if spec.relu2 else widths:
                width = max(step, round(share * spec.intermediate / step) * step)
                if width < spec.intermediate:
                    changes[f"width {width}"] = replace(spec, intermediate=width)
        else:
            for window in () if spec.window_tokens else windows:
                changes[f"window {window}"] = SlidingWindowAttention(**vars(spec), window=window)
            changes |= {kind: REPLACEMENTS[kind](spec) for kind in replacements}
        found += [Choice(layer, name, to) for name, to in {**changes, NONE: None}.items()]
    return found


def kind_of(teacher: Architecture, choice: Choice) -> str:
    """`a to none`: the operator and what becomes of it."""
    return f"{teacher.operators[choice.layer].kind} to {choice.name}"


def budget_of(text: str, full_ms: float) -> float:
    """`12000`, `12k` or `90%` of the model's own time, in milliseconds; raises BudgetError."""
    unit = {"": 1.0, "K": 1000.0, "%": full_ms / 100}
    budget = number_of(text, unit)
    if math.isnan(budget):
        raise BudgetError(
            f"--budget-ms must be milliseconds, or a share such as 90%; got {text!r}"
            f"{meant(text, 'ms')}"
        )
    return budget
