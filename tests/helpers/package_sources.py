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


@functools.cache
def modules():
    """Module of each file -> path."""
    return {
        ".".join(("flashnas", *path.with_suffix("").parts)).removesuffix(".__init__"): path
        for path in trees()
    }


@functools.cache
def imports():
    """Path -> what the file imports, deferred imports too: modules, and names of `flashnas` itself."""
    found = {path: set() for path in trees()}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found[path] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    inside = name in modules() or node.module == "flashnas"
                    found[path].add(name if inside else node.module)
    return found
