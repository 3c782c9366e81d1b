"""The answer that the front page and docs/report.md quote is the one that `make search` prints, on
any CPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTED = {
    "README.md": r"```text\n(recommended.*?)```",
    "docs/report.md": r"\n    (recommended  P.*?)\n\n",
}


def words(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What `make search` prints, in another folder."""
    out = tmp_path_factory.mktemp("search") / "run"
    config = ROOT / "experiments/first_search/config.yaml"
    command = [sys.executable, "-m", "flashnas", "search", "--config", config, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return words(done.stdout).replace(f"{out}/", "experiments/runs/first_search/")


@pytest.mark.slow
@pytest.mark.parametrize("page", QUOTED)
def test_the_quoted_answer_is_that_of_make_search(printed, page):
    quoted = re.search(QUOTED[page], (ROOT / page).read_text(), re.DOTALL).group(1)
    lines = re.split(r"\n(?=\s*[a-z][a-z ]{3,11}\s{2,}\S)", quoted)
    assert len(lines) > 4
    for line in map(words, lines):
        assert line in printed
