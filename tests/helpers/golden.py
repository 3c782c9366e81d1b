"""Texts that are compared word by word with a file of tests/golden."""

import html
import os
import re
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    golden = path.read_text(encoding="utf-8")
    assert text == golden, (
        f"{path}: if the new words are meant, run this test with REWRITE_GOLDEN=1"
    )


def text_of_page(page: str) -> str:
    """The words of a page, without its styles and pictures."""
    page = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    page = re.sub(r"<svg.*?</svg>", "\n[picture]\n", page, flags=re.DOTALL)
    page = re.sub(r"</(p|h\d|tr|div|li|dt|dd)>", "\n", page)
    lines = html.unescape(re.sub(r"<[^>]+>", " ", page)).splitlines()
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line) + "\n"
