"""The objectives of a search by name, and the one definition of their directions.

All code that compares minimises. Recall and throughput are maximised, and are therefore compared by
their negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from flashnas.base.text import one_of
from flashnas.latency.metrics import LARGER_IS_BETTER, METRICS

DEFAULT = ("loss", "latency_ms")
FULL = "full_loss"  # the loss to expect of a full training; takes the place of `loss`
RECALL = "expected_recall"  # after a full training; known without any
# of which a search has one, known after training only; the others come exactly from the table or
# evidence
QUALITY = ("loss", FULL)
OBJECTIVES = (*QUALITY, RECALL, *METRICS)
MAX_OBJECTIVES = 4  # with more, nearly every network is on the front
_MAXIMISED = (RECALL, *LARGER_IS_BETTER)


def check_objectives(names: Sequence[str], refuse: Callable[[str], NoReturn]) -> tuple[str, ...]:
    """The names, the quality first. refuse: raises an error for a rule, such as `must be 2 to 4
    names; got loss`."""
    for name in names:
        if name not in OBJECTIVES:
            refuse(one_of("", name, OBJECTIVES).strip())
        if list(names).count(name) > 1:
            refuse(f"names {name!r} twice")
    if not 2 <= len(names) <= MAX_OBJECTIVES:
        refuse(
            f"must be 2 to {MAX_OBJECTIVES} names, such as loss,latency_ms; got"
            f" {','.join(names) or 'none'}"
        )
    if sum(name in QUALITY for name in names) != 1:
        refuse(f"needs one quality ({' or '.join(QUALITY)}); got {','.join(names)}")
    return tuple(sorted(names, key=lambda name: name not in QUALITY))


def title_of(name: str) -> str:
    """`expected recall`, `memory (GB)`: an objective in a heading."""
    if name in METRICS:
        words = (
            name.removesuffix("_ms").removesuffix("_gb").removesuffix("_tok_s").replace("_", " ")
        )
        return words if name.endswith("params") else f"{words} ({METRICS[name]})"
    return name.replace("_", " ")


def larger_is_better(name: str) -> bool:
    return name in _MAXIMISED


def minimised(name: str, value: Any) -> Any:
    """A number, or an array, as it is compared."""
    return -value if larger_is_better(name) else value


def ranking(name: str) -> str:
    """The field of a trial by which an objective is compared."""
    return "value" if name == FULL else name


def point(names: Sequence[str], figures: Mapping[str, Any]) -> tuple[float, ...] | None:
    """All objectives as they are compared; None if one does not exist."""
    values = []
    for name in names:
        value = figures.get(ranking(name))
        if value is None or value != value:
            return None
        values.append(minimised(name, float(value)))
    return tuple(values)
