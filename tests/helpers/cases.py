"""Cases of tests that are data."""

import functools
from pathlib import Path

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def data_of(name):
    """What a YAML file of the tests holds, such as cli/bad_input."""
    path = Path(__file__).parents[1] / f"{name}.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), LOADER)


def cases(room, name):
    """Those of this name in `cases.yaml` of a room of the tests."""
    return data_of(f"{room}/cases")[name]
