"""What the documents show is true: commands parse, notations parse, links lead somewhere, the API page is current."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from flashnas.architecture import Architecture
from flashnas.cli.command import COMMANDS
from flashnas.cli.main import build_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "experiments").glob("*/README.md")), ROOT / "benchmarks" / "README.md"]


def commands():
    """Every line of code that calls flashnas, without comments, continued lines joined."""
    for page in PAGES:
        if page.name == "api.md":  # prose in code blocks
            continue
        for block in re.findall(r"(?m)(?:^    .*\n|^\n)+|^```(?:sh|bash)?\n.*?^```", page.read_text()):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                match = re.search(rf"(?:^|\s)flashnas ((?:{'|'.join(COMMANDS)})\b.*)", line)
                if match and ".." not in match[1]:
                    yield pytest.param(match[1], id=f"{page.relative_to(ROOT)}: {match[1][:50]}")


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_documents_parses(line):
    words = shlex.split(line, comments=True)
    parser, _, command = build_parser(words)
    options = parser.parse_args(words)
    assert command is not None
    assert options.command == words[0]


def test_there_are_commands_to_check():
    assert len(list(commands())) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("notation", sorted({
    match for page in PAGES for match in re.findall(r"(?<![\w.])\d{2,5}(?:\([^)\n]*\))?: [^`'\"\n|]{3,80}(?=[`'])",
                                                    page.read_text()) if "gsc" not in match}))
def test_a_notation_in_the_documents_parses(notation):
    assert Architecture.parse(notation).params > 0


def test_the_faults_that_evidence_counts_are_those_of_tests():
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    table = (ROOT / "docs" / "evidence.md").read_text().partition("| fault |")[2].partition("\n\n")[0]
    named = 0
    for line in table.splitlines():
        for part in line.split(";"):
            if found := re.search(r"`(test_\w+\.py)`:(.*)", part):
                text = files[found[1]].read_text()
                for name in re.findall(r"`(test_\w+)`", found[2]):
                    assert f"\ndef {name}(" in text, f"{found[1]} has no {name}"
                    named += 1
    assert named > 30


def test_the_api_page_is_current():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "api.md").read_text() == module.text(), "run python docs/make_api.py"


def test_the_readme_has_the_command_of_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"(?m)^\| `pip install '\.\[(.*?)\]'`(?:, `pip install '\.\[(.*?)\]'`)?", readme)
    assert sorted({name for row in shown for name in row if name}) == sorted({*extras} - {"dev"})
