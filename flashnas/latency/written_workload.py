"""A workload as a text: `batch=1,prompt=0,generated=1024`."""

from __future__ import annotations

import re
from typing import Any

from flashnas.base.errors import WorkloadError
from flashnas.base.text import did_you_mean, number_of

_SHORT = {
    "batch": "batch",
    "prompt": "prompt_tokens",
    "generated": "generated_tokens",
    "dtype": "dtype",
}
_KEYS = {**_SHORT, **{field: field for field in _SHORT.values()}}


def read_workload(text: str) -> dict[str, Any]:
    """The fields of a Workload; WorkloadError for a text that does not read so."""
    fields: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise WorkloadError(f"workload: parts must read key=value; got {part.strip()!r}")
        if key not in _KEYS:
            raise WorkloadError(
                f"workload has no key {key!r}{did_you_mean(key, _KEYS)};"
                f" allowed: {', '.join(_SHORT)}"
            )
        field = _KEYS[key]
        if field in fields:
            raise WorkloadError(f"workload: duplicate key {key!r}")
        count = number_of(value)  # NaN for 0, for less and for words
        plain = re.fullmatch(r"-?[0-9]+", value)
        fields[field] = int(value if plain else count) if plain or count.is_integer() else value
    return {"name": text.replace(" ", ""), **fields}
