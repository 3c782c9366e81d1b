"""Counts the tokens of code in each room, without comments, docstrings and layout.

    python tools/size.py                 # a line for each room of flashnas/, and for other folders
    python tools/size.py --by-file       # a line for each file instead

Characters reward squeezed code and lines depend on the layout; tokens do neither. Templates,
stylesheets and scripts of pages are not Python: their words and signs are counted by a plain
pattern and shown beside.
"""

import argparse
import ast
import re
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("flashnas", "tests", "experiments", "benchmarks", "tools", "examples")
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
PAGE_SUFFIXES = (".html", ".js", ".css", ".txt", ".j2")


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is a string that stands alone as a statement."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def python_tokens(path: Path) -> int:
    """The tokens of a Python file."""
    with path.open("rb") as file:
        count = sum(token.type not in LAYOUT for token in tokenize.tokenize(file.readline))
    return count - sum(is_docstring(node) for node in ast.walk(ast.parse(path.read_bytes())))


def page_tokens(path: Path) -> int:
    """Words and signs of a template, a stylesheet or a script of a page."""
    return len(re.findall(r"\w+|[^\w\s]", path.read_text(encoding="utf-8")))


def room_of(path: Path) -> str:
    """`flashnas/ROOM` inside the package and the tests, else the top folder."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "flashnas" and len(parts) > 2 else parts[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--by-file", action="store_true", help="a line for each file")
    by_file = parser.parse_args().by_file
    code, pages = Counter[str](), Counter[str]()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = str(path.relative_to(ROOT)) if by_file else room_of(path)
            if path.suffix == ".py":
                code[name] += python_tokens(path)
            elif path.suffix in PAGE_SUFFIXES and folder in ("flashnas", "examples"):
                pages[name] += page_tokens(path)
    for name in sorted({*code, *pages}):
        beside = f"  and {pages[name]:,} of templates and pages" if pages[name] else ""
        print(f"{code[name]:9,}  {name}{beside}")
    package = sum(count for name, count in code.items() if name.startswith("flashnas"))
    helpers = sum(
        count
        for name, count in code.items()
        if name.startswith(("experiments", "benchmarks", "tools"))
    )
    print(f"{package:9,}  flashnas in all")
    print(f"{helpers:9,}  experiments, benchmarks and tools together")


if __name__ == "__main__":
    main()
