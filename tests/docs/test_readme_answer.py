"""The front page: its commands run, and what it quotes is what they print, on any CPU. docs/search.md
quotes the same answer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```.*?^```|^    .*?$", re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    flashnas ((?:search|compare|estimate) .*)$", README, re.MULTILINE)
FIGURE = re.compile(r"(?<![\w./-])\d+\.\d+(?![\w./])")
QUOTED = {
    "README.md": r"```text\n(recommended.*?)```",
    "docs/search.md": r"\n    (recommended  P.*?)\n\n",
}


def words(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command of the front page prints, in a folder of its own."""
    found = {}
    for command in COMMANDS:
        done = subprocess.run(
            f"{sys.executable} -m flashnas {command}",
            shell=True,
            cwd=tmp_path_factory.mktemp("front_page"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        found[command] = words(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", QUOTED)
def test_the_quoted_answer_is_that_of_the_first_command(printed, page):
    quoted = re.search(QUOTED[page], (ROOT / page).read_text(), re.DOTALL).group(1)
    lines = re.split(r"\n(?=\s*[a-z][a-z ]{3,11}\s{2,}\S)", quoted)
    assert len(lines) > 3
    answer = re.sub(
        r"experiments/runs/[^/ ]+/", "experiments/runs/first_search/", printed[COMMANDS[0]]
    )
    for line in map(words, lines):
        assert line in answer


@pytest.mark.slow
def test_each_figure_of_the_front_page_is_printed_or_recorded(printed):
    assert len(COMMANDS) > 3
    assert any("--as-good-as" in command for command in COMMANDS)
    pool = " ".join(printed.values())
    prose = BLOCK.sub("", README)
    others = re.sub(r"(Python|arXiv) \S+", "", prose)
    figures = FIGURE.findall(others)
    assert len(figures) > 5
    assert not [figure for figure in figures if figure not in pool]
