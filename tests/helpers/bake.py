"""Options of a command that is none, with every kind of field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.settings import REQUIRED, Settings, option


@dataclass(frozen=True, kw_only=True)
class Bake(Settings, where="bake"):
    flour: str = option(REQUIRED, "what to take", positional=True)
    grams: int = option(500, "how much", min=1, max=10_000)
    heat: float = option(220.0, "of the oven", above=0, below=300, metavar="C")
    share: float | None = option(None, "of rye", shown="the recipe's", min=0, max=1)
    steam: bool = option(True, "with steam", off="without steam")
    crisp: bool = option(False, "bake longer")
    seeds: tuple[str, ...] = option(
        ("sesame", "poppy"), "to add", choices=("sesame", "poppy"), separator=","
    )
    notes: dict[str, Any] = option(dict, "for the baker", flag="--note")
    limits: dict[str, float] = option(dict, "of the oven", keys=lambda: ("hot", "cold"), above=0)
    out: Path | None = option(None, "folder", yaml=False)
