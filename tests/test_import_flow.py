"""Imports follow the flow: each room may import only rooms to its left, and torch stays where it computes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "flashnas"
BASE = {"allocator", "errors", "hints", "config_file", "shipped", "__init__"}
SHAPES = BASE | {"operators", "architecture", "architecture_source"}
ALLOWED = {
    "allocator": set(), "errors": set(), "hints": set(), "config_file": BASE, "shipped": set(),
    "__init__": set(), "__main__": {"cli"},
    "operators": BASE | {"operators"},
    "architecture": BASE | {"operators"},
    "hf": BASE | {"operators", "architecture", "hf"},
    "architecture_source": SHAPES | {"hf"},
    "trial": set(),
    "pareto": set(),
    "space": SHAPES | {"space"},
    "model": SHAPES,
    "weights": SHAPES | {"model"},
    "latency": SHAPES | {"latency"},
    "proxy": SHAPES | {"model", "proxy"},
    "training": SHAPES | {"model", "weights", "proxy", "training"},
    "objectives": BASE | {"latency", "proxy"},
    "search": SHAPES | {"space", "pareto", "search"},
    "run": SHAPES | {"trial", "run", "objectives"},
    "report": SHAPES | {"trial", "objectives", "pareto", "report"},
    "export": SHAPES | {"model", "weights", "export"},
    "pipeline": SHAPES | {"trial", "objectives", "pareto", "space", "model", "latency", "proxy", "search", "run"},
    "trust": SHAPES | {"trial", "pareto", "proxy", "run", "report", "trust"},
    "cli": {path.stem for path in ROOT.iterdir()},
}
# the only code that times anything needs the networks that it times
# and width fitting asks the space for its widths
EXTRA = {"latency/width.py": {"space"}, "latency/items.py": {"space"}, "latency/profile.py": {"space"},
         "latency/in_place.py": {"model", "space"}, "latency/rotation.py": {"model"},
         "latency/whole_model.py": {"model"}, "latency/validation.py": {"space"},
         "export/tokenizer.py": {"proxy"}}
TIMING = ("profile", "device_timing", "job", "in_place", "rotation", "whole_model")
WITH_TORCH = {"operators/layers", "model.py", "weights.py", "proxy", "training", "export", "search/surrogate.py",
              *(f"latency/{name}.py" for name in TIMING)}


def modules():
    return sorted(path for path in ROOT.rglob("*.py") if "_shipped" not in path.parts)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "flashnas":
                yield from (f"flashnas.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(path):
    relative = path.relative_to(ROOT)
    room = relative.parts[0].removesuffix(".py")
    assert room in ALLOWED, f"{relative}: a new room needs its place in the flow; add it to this test and the docs"
    allowed = ALLOWED[room] | EXTRA.get(str(relative), set())
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "flashnas" and len(parts) > 1:
            assert parts[1] in allowed | {"__version__"}, f"{relative} must not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_is_imported_only_where_networks_are_computed(path):
    relative = str(path.relative_to(ROOT))
    if not any(relative == place or relative.startswith(f"{place}/") for place in WITH_TORCH):
        assert not [name for name in imported(path) if name.split(".")[0] in ("torch", "botorch", "gpytorch")]


def test_the_help_loads_no_heavy_library():
    script = ("import sys; from flashnas.cli.main import main; code = main(['--help']);"
              "heavy = {'torch', 'pandas', 'optuna', 'plotly', 'scipy', 'numpy'} & set(sys.modules);"
              "print(code, sorted(heavy), file=sys.stderr)")
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stderr.strip() == "0 []"
    assert "search" in child.stdout
