"""Keys of a configuration file, which have no flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def with_keys(folder: Path, **keys: Any) -> list[str]:
    """The words that give these keys to a command, by a file in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump(keys))
    return ["--config", str(path)]
