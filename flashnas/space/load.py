"""A search space from its YAML file, by path or by shipped name."""

from __future__ import annotations

import os
from pathlib import Path

from flashnas.base.errors import SpaceError
from flashnas.base.hints import did_you_mean, one_of
from flashnas.base.shipped import shipped_names
from flashnas.base.yaml import read_yaml
from flashnas.space.base import SearchSpace
from flashnas.space.layerwise import LayerwiseSpace
from flashnas.space.three_stage import ThreeStageSpace

TEMPLATES: dict[str, type[ThreeStageSpace] | type[LayerwiseSpace]] = {
    "three_stage": ThreeStageSpace,
    "layerwise": LayerwiseSpace,
}


def load_space(source: str | Path) -> SearchSpace:
    """Load a space; raises SpaceError or ConfigError with file, line, rule and value."""
    path = _resolve(str(source))
    data = read_yaml(path)
    if "template" not in data:
        raise SpaceError(f"{data.place()}: a search space needs the key 'template': one of {', '.join(TEMPLATES)}")
    if data["template"] not in list(TEMPLATES):  # of a list, which bears any value
        raise SpaceError(one_of(f"{data.place('template')}: template", data["template"], TEMPLATES))
    return TEMPLATES[data["template"]].from_config(data, name=Path(path).stem)


def _resolve(source: str) -> str:
    shipped = shipped_names("search_spaces", ".yaml")
    if source in shipped:
        relative = os.path.relpath(shipped[source])  # short in messages
        return str(shipped[source]) if relative.startswith("..") else relative
    if Path(source).suffix in (".yaml", ".yml") or os.path.exists(source):
        if not os.path.isfile(source):
            raise SpaceError(f"{source}: no such file")
        return source
    raise SpaceError(f"{source!r} is no shipped search space{did_you_mean(source, shipped)} and no YAML file;"
                     f" shipped: {', '.join(shipped)}")
