"""A search space from its YAML file, by path or by shipped name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flashnas.base.documents import read_yaml
from flashnas.base.errors import SpaceError
from flashnas.base.registry import Registry, foreign_errors, shipped_names
from flashnas.base.text import did_you_mean, one_of, shown, shown_path
from flashnas.space import settings
from flashnas.space.base import SearchSpace
from flashnas.space.operator_space import OperatorSpace, as_operator_space

TEMPLATES: Registry[type[SearchSpace[Any]]] = Registry(
    "search space template",
    "flashnas.spaces",
    {
        "three_stage": "flashnas.space.three_stage:ThreeStageSpace",
        "layerwise": "flashnas.space.layerwise:LayerwiseSpace",
    },
    SpaceError,
    "template",
    base="flashnas.space.base:SearchSpace",
)


def load_space(source: str | Path | SearchSpace[Any]) -> SearchSpace[Any]:
    """Load a search space.

    Args:
        source (str | Path | SearchSpace): a shipped name such as `nemotron_flash`, or the path of a
            YAML file. A space is returned as it is.

    Returns:
        The SearchSpace.

    Raises:
        SpaceError or ConfigError: in one line with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> fn.load_space("nemotron_flash").name
        'nemotron_flash'
    """
    if isinstance(source, SearchSpace):
        return source
    path = _resolve(str(source))
    data = read_yaml(path)
    if "template" not in data:
        raise SpaceError(
            f"{data.place()}: a search space needs the key 'template': one of"
            f" {', '.join(TEMPLATES)}"
        )
    if data["template"] not in list(
        TEMPLATES
    ):  # a list accepts any value, also one that is not hashable
        raise SpaceError(one_of(f"{data.place('template')}: template", data["template"], TEMPLATES))
    place, factor = data.place("width_factor"), data.pop("width_factor", None)
    template = TEMPLATES[data["template"]]
    with foreign_errors(("search space template", template)):
        space = template.from_config(data, name=Path(path).stem)
    if factor is not None:
        if not isinstance(space, OperatorSpace):
            raise SpaceError(
                f"{place}: width_factor is of spaces of flashnas' operators; this one has"
                " architectures of its own"
            )
        space.width_factor = settings.whole(place, "width_factor", factor, 1, 1024)
    return space


def load_operator_space(source: str | Path | SearchSpace[Any], use: str) -> OperatorSpace[Any]:
    """`load_space` for what needs a space of flashnas' operators, such as a latency table (`use`).

    Raises:
        SpaceError: also for a space with architectures of its own.
    """
    return as_operator_space(load_space(source), use)


def _resolve(source: str) -> str:
    shipped = shipped_names("search_spaces", ".yaml")
    if source in shipped:
        relative = os.path.relpath(shipped[source])  # short in messages
        return str(shipped[source]) if relative.startswith("..") else relative
    if Path(source).suffix in (".yaml", ".yml") or os.path.exists(source):
        if not os.path.exists(source):
            raise SpaceError(f"{shown_path(source)}: no such file")
        return source
    raise SpaceError(
        f"{shown(source)} is not a shipped search space{did_you_mean(source, shipped)} and not a"
        f" YAML file; shipped: {', '.join(shipped)}"
    )
