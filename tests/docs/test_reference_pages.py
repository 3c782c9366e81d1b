"""docs/commands.md and docs/api.md say of options and signatures what the code has."""

import pytest
from documents import ROOT
from reference_pages import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_makes_it(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert PAGES[name](text) == text, "run: python tools/reference_pages.py"
