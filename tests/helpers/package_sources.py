"""The files of the package and what they say, read and parsed once for all tests about its form."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2] / "flashnas"


@functools.cache
def texts():
    """By their path within the package."""
    return {
        path.relative_to(ROOT): path.read_text()
        for path in sorted(ROOT.rglob("*.py"))
        if "_shipped" not in path.parts
    }


@functools.cache
def trees():
    return {path: ast.parse(text) for path, text in texts().items()}
