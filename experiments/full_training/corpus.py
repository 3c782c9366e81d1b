"""Docstrings of installed packages as a text: one line of JSON for each text of more than 200
characters.

    python experiments/full_training/corpus.py    # a minute; train.py does it if it is missing

Nothing is imported: the .py files are parsed, in the order of their paths. A text that comes twice
is written once. The text is not part of the project.
"""

import ast
import hashlib
import inspect
import json
from importlib.metadata import distribution
from pathlib import Path

from flashnas.base.system import write_atomic

PACKAGES = ("scipy", "sympy", "scikit-learn", "pandas", "numpy")
LEAST_CHARACTERS = 200  # a docstring has more
RUNS = Path("experiments/runs/full_training")
TEXT, FACTS = RUNS / "docstrings.jsonl", RUNS / "docstrings.json"
HOLDERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(path: Path) -> list[str]:
    """Those of a file, without indentation, from its top to its end."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # templates and files for other versions of Python
        return []
    found = [
        (getattr(node, "lineno", 0), ast.get_docstring(node, clean=False))
        for node in ast.walk(tree)
        if isinstance(node, HOLDERS)
    ]
    return [
        inspect.cleandoc(text) for _, text in sorted((line, text) for line, text in found if text)
    ]


def files(package: str) -> list[Path]:
    """The .py files of a distribution, without its tests."""
    found = distribution(package)
    return [
        Path(str(found.locate_file(each)))
        for each in sorted(found.files or (), key=str)
        if each.suffix == ".py" and not {"tests", "test"} & set(each.parts)
    ]


def write_corpus() -> dict[str, object]:
    """Write text and facts unless they are there; returns the facts: versions, documents, bytes,
    sha256.
    """
    if TEXT.exists() and FACTS.exists():
        facts: dict[str, object] = json.loads(FACTS.read_text())
        return facts
    RUNS.mkdir(parents=True, exist_ok=True)
    texts = dict.fromkeys(
        text
        for package in PACKAGES
        for path in files(package)
        for text in docstrings(path)
        if len(text) > LEAST_CHARACTERS
    )
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    facts = {
        "versions": {package: distribution(package).version for package in PACKAGES},
        "documents": len(texts),
        "text_bytes": sum(len(text.encode()) for text in texts),
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    write_atomic(TEXT, content)
    write_atomic(FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


if __name__ == "__main__":
    print(json.dumps(write_corpus(), indent=1))
