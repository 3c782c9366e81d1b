"""Pages: links and anchors lead somewhere, notations parse, and the site, gallery and API leave
nothing out.
"""

import importlib
import re

import pytest
import yaml
from documents import PAGES, ROOT, TEXTS

import flashnas
from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError
from flashnas.operators import OPERATORS

NOTATION = re.compile(r"(?<![\w.])\d{2,5}(?:\([^)\n]*\))?: [^`'\"\n|]{3,80}(?=[`'])")


def nav_pages(entries):
    for entry in entries:
        for value in entry.values():
            yield from nav_pages(value) if isinstance(value, list) else [value]


def test_the_first_page_lists_every_operator():
    table = TEXTS["docs/start.md"].partition("## Operators")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(OPERATORS.shipped)


def test_notations_in_the_documents_parse():
    wrong = []
    for name, text in TEXTS.items():
        for notation in {*NOTATION.findall(text)}:
            if not {"gsc", "shift", "x=1"} & {*re.findall(r"gsc|shift|x=1", notation)}:
                try:
                    Architecture.parse(notation)
                except FlashnasError as error:
                    wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_api_page_has_every_public_name_and_each_of_its_names_exists():
    names = re.findall(r"(?m)^<!-- ::: (\S+)\.(\w+) -->$", TEXTS["docs/api.md"])
    assert not [name for name in names if not hasattr(importlib.import_module(name[0]), name[1])]
    public = {name for name in flashnas.__all__ if not name.startswith("_")}
    assert not public - {name for _, name in names}


def test_every_page_is_reached_from_the_readme_and_is_in_the_navigation():
    pytest.importorskip("mkdocs")
    reached = importlib.import_module("site_pages").reached()
    lost = [str(page.relative_to(ROOT)) for page in PAGES if page not in reached]
    assert not lost, f"README.md reaches no link to {', '.join(lost)}"
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.SafeLoader)
    listed = {*nav_pages(config["nav"])}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= listed
