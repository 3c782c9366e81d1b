"""The files that options of a search name, so that a run may be continued from another folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from flashnas.base.registry import shipped_names

FILES = ("space", "table", "recipe", "data", "tokenizer", "evidence", "bench_table", "start_from")


def from_anywhere(name: str, value: Any) -> Any:
    """The value of an option with relative paths made absolute, as far as it names files that are
    there.
    """
    if name not in FILES or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(from_anywhere(name, part) for part in value)
    joined = name == "data" and not os.path.exists(value.partition("#")[0])
    return "+".join(_absolute(name, part) for part in (value.split("+") if joined else [value]))


def _absolute(name: str, text: str) -> str:
    from flashnas.data.corpus import NAMED
    from flashnas.training.recipe import shipped_recipes

    names: Mapping[str, Collection[str]] = {
        "data": NAMED,
        "recipe": shipped_recipes(),
        "space": shipped_names("search_spaces", ".yaml"),
        "table": shipped_names("latency_tables", "meta.yaml"),
        "bench_table": shipped_names("bench_tables", "bench.parquet"),
    }
    path, mark, column = text.partition("#") if name == "data" else (text, "", "")
    return (
        text
        if text in names.get(name, ()) or not os.path.exists(path)
        else (os.path.abspath(path) + mark + column)
    )
