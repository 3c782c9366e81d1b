"""Cases of tests that are data."""

from pathlib import Path

import yaml


def cases(room, name):
    """Those of this name in `cases.yaml` of a room of the tests."""
    path = Path(__file__).parents[1] / room / "cases.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))[name]
