"""The contracts of flashnas, for authors of plugins. Each check raises AssertionError with one line that
names the rule that is broken; none of them needs pytest:

    from flashnas.testing import check_operator

    def test_operator():
        check_operator("gsc")

| check | of |
|---|---|
| `check_operator` | an operator: its reference, parallel form and step, and what its spec states |
| `check_sampler`, `check_beats_random` | a search algorithm |
| `check_task` | a synthetic task |
| `check_space` | a search space |
| `check_executor` | an executor: results, failures, second tries, what `drop` and `close` leave behind |

The tests of flashnas call the same functions for everything that it ships.
"""

from __future__ import annotations

from typing import Any

from flashnas.base.registry import load_object

_PLACES = {
    "check_operator": "flashnas.testing.operator:check_operator",
    "check_sampler": "flashnas.testing.sampler:check_sampler",
    "check_beats_random": "flashnas.testing.sampler:check_beats_random",
    "check_task": "flashnas.testing.task:check_task",
    "check_space": "flashnas.testing.space:check_space",
    "check_executor": "flashnas.testing.executor:check_executor",
}
__all__ = ["check_beats_random", "check_executor", "check_operator", "check_sampler", "check_space",
           "check_task"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_object(_PLACES[name])


def __dir__() -> list[str]:
    return __all__
