"""What surrounds the code: metadata, citation, continuous integration and issue templates agree
with each other.
"""

import re
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


def test_the_workflow_runs_what_is_here():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in lines
    targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
    assert not [
        line for line in lines if line.startswith("make ") and line.split()[1] not in targets
    ]


def test_issue_templates_ask_for_the_report_of_doctor():
    forms = [
        path
        for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")
        if path.name != "config.yml"
    ]
    assert forms
    assert not [
        path.name
        for path in forms
        if "flashnas doctor --json" not in path.read_text()
        or not {"name", "description", "body"} <= set(yaml.safe_load(path.read_text()))
    ]
