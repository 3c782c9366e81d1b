"""What each layer of a pretrained model may become, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.base.text import number_of
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet

LEAST_SAVED = 0.001  # of the request: a choice that saves less is not offered
MULTIPLE = 64  # of the width of a narrower feed-forward network
KEPT, NONE = "kept", "none"


# operators that are trained to take the place of an attention -> what they are there: with as many
# heads as attention has for queries, of the same size
REPLACEMENTS: Mapping[str, Callable[[Attention], OperatorSpec]] = {
    "gd": lambda attention: GatedDeltaNet(k_heads=attention.heads, head_dim=attention.head_dim)
}


@dataclass(frozen=True)
class Choice:
    """What one layer becomes. layer: its number among the operators. name: `none`, `window 256`,
    `width 768`, `gd 500000`. spec: None where the layer goes. saved_ms: of the request, by that
    change alone. trained: whether its weights are."""

    layer: int
    name: str
    spec: OperatorSpec | None
    saved_ms: float = 0.0
    trained: bool = False

    @property
    def key(self) -> str:
        """`17:none`: as measurements record it."""
        return f"{self.layer}:{self.name}"


Layout = tuple[Choice, ...]  # the layers that change, in order; all others are kept
Milliseconds = Callable[[Layout], float]  # of a request to the changed model


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
    tokens: int = 0,
) -> list[Choice]:
    """All choices, whatever they save.

    Args:
        windows: tokens that windowed attention sees.
        widths: shares of a feed-forward network's columns.
        keep: kinds of operators that stay as they are.
        replacements: kinds of REPLACEMENTS that are trained. tokens: on which.
    """
    found = []
    for layer, spec in enumerate(teacher.canonical().operators):
        if spec.kind in keep:
            continue
        if isinstance(spec, Attention):
            if not spec.window_tokens:
                found += [
                    Choice(
                        layer,
                        f"window {window}",
                        SlidingWindowAttention(**vars(spec), window=window),
                    )
                    for window in windows
                ]
            for kind in replacements:
                replacement = REPLACEMENTS[kind](spec)
                found.append(Choice(layer, f"{kind} {tokens}", replacement, trained=True))
            found.append(Choice(layer, NONE, None))
        elif isinstance(spec, FeedForward):
            for share in widths:
                width = max(MULTIPLE, round(share * spec.intermediate / MULTIPLE) * MULTIPLE)
                if width < spec.intermediate:
                    found.append(Choice(layer, f"width {width}", replace(spec, intermediate=width)))
            found.append(Choice(layer, NONE, None))
    return [*dict.fromkeys(found)]  # shares may round to one width


def kind_of(teacher: Architecture, choice: Choice) -> str:
    """`a to none`: the operator and what becomes of it."""
    return f"{teacher.operators[choice.layer].kind} to {choice.name}"


def offered(
    teacher: Architecture, choices: Sequence[Choice], milliseconds: Milliseconds
) -> list[Choice]:
    """The choices with what they save; those that save next to nothing are left out."""
    full = milliseconds(())
    saved: dict[tuple[OperatorSpec, OperatorSpec | None], float] = {}
    priced = []
    for choice in choices:  # layers repeat the same few changes
        pair = teacher.operators[choice.layer], choice.spec
        if pair not in saved:
            saved[pair] = full - milliseconds((choice,))
        priced.append(replace(choice, saved_ms=saved[pair]))
    return [choice for choice in priced if choice.saved_ms > LEAST_SAVED * full]


def budget_of(text: str, full_ms: float) -> float:
    """`12000`, `12k` or `90%` of the model's own time, in milliseconds; raises BudgetError."""
    unit = {"": 1.0, "K": 1000.0, "%": full_ms / 100}
    budget = number_of(text, unit)
    if math.isnan(budget):
        raise BudgetError(f"--budget-ms must be milliseconds, or a share such as 90%; got {text!r}")
    return budget
