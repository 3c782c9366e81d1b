"""The public architectures of `presets.yaml`."""

from __future__ import annotations

import functools

from flashnas.architecture.architecture import Architecture
from flashnas.base.documents import read_yaml
from flashnas.base.registry import PACKAGE


@functools.cache
def preset_notations() -> dict[str, str]:
    """Name -> notation."""
    return dict(read_yaml(PACKAGE / "architecture" / "presets.yaml"))


@functools.cache
def preset(name: str) -> Architecture:
    """The architecture of that name."""
    return Architecture.parse(preset_notations()[name])


def presets() -> dict[str, Architecture]:
    """All of them, by name."""
    return {name: preset(name) for name in preset_notations()}
