"""What surrounds the code: metadata, citation, continuous integration and issue templates agree
with each other.
"""

import tomllib
from pathlib import Path

import yaml

import flashnas

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {PROJECT["version"], citation["version"]} == {flashnas.__version__}
    assert {PROJECT["license"], citation["license"]} == {"Apache-2.0"}
    assert citation["authors"] == PROJECT["authors"]
    assert f"version = {{{flashnas.__version__}}}" in (ROOT / "docs/start.md").read_text().replace(
        "  ", " "
    )
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
