"""Cases of tests that are data."""

import functools
from pathlib import Path

import yaml


def cases(room, name):
    """Those of this name in `cases.yaml` of a room of the tests."""
    return _read(Path(__file__).parents[1] / room / "cases.yaml")[name]


@functools.cache
def _read(path):
    return yaml.load(
        path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
