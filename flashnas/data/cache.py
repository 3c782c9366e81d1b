"""The folder of tokenizers and token arrays, which several processes may fill at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashnas.base.errors import CorpusError
from flashnas.base.system import disk_errors


def cache_folder() -> Path:
    """FLASHNAS_CACHE if it is set, else ~/.cache/flashnas."""
    return Path(os.environ.get("FLASHNAS_CACHE") or Path.home() / ".cache" / "flashnas")


@contextmanager
def writing_cache(folder: Path) -> Iterator[None]:
    """Create `folder` for the block to write into; raises CorpusError naming it if the disk is full
    or read-only."""
    with disk_errors(
        f"cannot cache data in {folder}",
        CorpusError,
        "; free some space or name another folder with FLASHNAS_CACHE",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        yield
