"""The plan of a search: `flashnas search --dry-run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flashnas.api.calling import silent, takes, writable_out
from flashnas.api.search import OBJECTS, SearchOptions
from flashnas.study import plan as planning


@takes(SearchOptions, objects=OBJECTS)
def plan(
    options: SearchOptions,
    *,
    objects: Mapping[str, Any],
    note: Callable[[str], None] = silent,
    evaluator: Callable[[Any], Any] | None = None,
) -> planning.Plan:
    """What `search` with the same keywords would train. Nothing is written but the corpus' cache.

    Further:
        evaluator (Callable): as of `search`.

    Returns:
        Plan: networks, and tokens and FLOPs of each and of all. `print` shows them.
    """
    if options.out is not None:
        writable_out(options)

    return planning.plan(options, note=note, evaluator=evaluator, **objects)
