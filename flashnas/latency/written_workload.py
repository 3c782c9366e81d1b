"""A workload as a text: `batch=1,prompt=0,generated=1024`."""

from __future__ import annotations

import re
from typing import Any

from flashnas.base.errors import WorkloadError
from flashnas.base.text import did_you_mean

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
        fields[field] = int(value) if re.fullmatch(r"-?[0-9]+", value) else value
    return {"name": text.replace(" ", ""), **fields}
