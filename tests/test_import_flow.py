"""Imports go down the list of rooms only, and torch stays where networks are computed; no file is an exception."""

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "flashnas"
# in the order in which the data flows: a room may import itself and the rooms before it
ROOMS = ("base", "operators", "architecture", "network", "data", "formats", "training", "space", "latency", "evidence",
         "profiling", "proxy", "search", "bench", "runs", "executors", "reuse", "study", "testing", "trust", "report",
         "export", "api", "cli")
WITHOUT_TORCH = ("base", "architecture", "data", "space", "latency", "evidence", "bench", "runs", "executors", "reuse",
                 "study", "trust", "report", "api", "cli")


class Source(NamedTuple):
    """What a file says. imports: (module, lowest name that it takes) for each import, deferred ones too; defined: names
    of functions, classes, variables and attributes; private: (line, name) of each use of a private attribute."""

    imports: list[tuple[str, str]]
    defined: set[str]
    private: list[tuple[int, str]]


@functools.cache
def modules():
    return sorted(path for path in ROOT.rglob("*.py") if "_shipped" not in path.parts)


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def source(path):
    found = Source([], set(), [])
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module)):
                found.imports.extend((module, alias.name) for alias in node.names)
            case ast.Import():
                found.imports.extend((alias.name, "") for alias in node.names)
            case ast.FunctionDef() | ast.ClassDef():
                found.defined.add(node.name)
            case ast.Name(ctx=ast.Store()):
                found.defined.add(node.id)
            case ast.Attribute():
                if isinstance(node.ctx, ast.Store):
                    found.defined.add(node.attr)
                if node.attr.startswith("_") and not node.attr.startswith("__"):
                    found.private.append((node.lineno, node.attr))
    return found


def graph():
    names = {".".join(("flashnas", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
             for path in modules()}
    edges = defaultdict(set)
    for name, path in names.items():
        for module, taken in source(path).imports:
            target = f"{module}.{taken}" if f"{module}.{taken}" in names else module
            if target in names and target != name:
                edges[name].add(target)
    return edges


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_before_it(path):
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    assert room in ROOMS, f"{room}: a new room needs its place in ROOMS and in the docs"
    for module, taken in source(path).imports:
        parts = module.split(".")
        if parts[0] != "flashnas" or (module == "flashnas" and taken in ("", "__version__")):  # the version
            continue
        target = parts[1] if len(parts) > 1 else taken
        allowed = ROOMS[:ROOMS.index(room) + 1]
        assert target in allowed, f"{path.relative_to(ROOT)} must not import {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_calls_the_api_only(path):
    rooms = {module.split(".")[1] for module, _ in source(path).imports if module.startswith("flashnas.")}
    assert rooms <= {"api", "base", "cli"}


def test_no_import_circles():
    edges, done, trail = graph(), set(), []

    def visit(name):
        if name in trail:
            raise AssertionError(" -> ".join([*trail[trail.index(name):], name]))
        if name not in done:
            trail.append(name)
            for target in sorted(edges[name]):
                visit(target)
            trail.pop()
            done.add(name)

    for name in sorted(edges):
        visit(name)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_is_imported_only_where_networks_are_computed(path):
    if room_of(path) in WITHOUT_TORCH:
        assert not [name for name, _ in source(path).imports if name.split(".")[0] in ("torch", "botorch", "gpytorch")]


def names_of(room):
    """What the files of a room define."""
    return set().union(*(source(path).defined for path in modules() if room_of(path) == room))


@pytest.mark.parametrize("room", ROOMS)
def test_private_names_stay_in_their_room(room):
    known = names_of(room)
    everything = set().union(*(names_of(other) for other in ROOMS if other != room)) - known
    for path in modules():
        if room_of(path) != room:
            continue
        for module, taken in source(path).imports:
            if module.startswith("flashnas.") and taken.startswith("_") and not taken.startswith("__"):
                assert module.split(".")[1] == room, f"{path}: imports {taken} of {module}"
        for line, name in source(path).private:
            assert name not in everything, f"{path}:{line}: uses {name} of another room"


@pytest.mark.parametrize("statement", ["import flashnas", "import flashnas.operators", "import flashnas.runs.run",
                                       "import flashnas.latency.prediction", "import flashnas.space.load"])
def test_torch_is_not_loaded_by(statement):
    child = subprocess.run([sys.executable, "-c", f"{statement}; import sys; print('torch' in sys.modules)"],
                           capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False"


def test_the_help_loads_no_heavy_library():
    script = ("import sys; from flashnas.cli.main import main; code = main(['--help']);"
              "heavy = {'torch', 'pandas', 'optuna', 'plotly', 'scipy', 'numpy'} & set(sys.modules);"
              "print(code, sorted(heavy), file=sys.stderr)")
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stderr.strip() == "0 []"
    assert "search" in child.stdout
