"""Imports go down the list of rooms only, and torch stays where networks are computed; no file is
an exception.
"""

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import fresh
import pytest
from package_sources import trees

# in the order in which the data flows: a room may import itself and the rooms before it
ROOMS = (
    "base",
    "operators",
    "architecture",
    "network",
    "data",
    "families",
    "training",
    "space",
    "latency",
    "observations",
    "loss",
    "profiling",
    "trials",
    "samplers",
    "run_folder",
    "executors",
    "study",
    "testing",
    "reporting",
    "exporting",
    "api",
    "cli",
)
WITH_TORCH = (
    "operators",
    "network",
    "families",
    "training",
    "profiling",
    "testing",
    "exporting",
)


def test_the_table_of_rooms_has_them_in_this_order():
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    assert tuple(re.findall(r"(?m)^\| `(\w+)/` \|", page)) == ROOMS


class Source(NamedTuple):
    """What a file says. imports: (module, lowest name that it takes) for each import, deferred ones
    too; defined: names of functions, classes, variables and attributes; private: (line, name) of
    each use of a private attribute."""

    imports: list[tuple[str, str]]
    defined: set[str]
    private: list[tuple[int, str]]


def room_of(path):
    return path.parts[0].removesuffix(".py")


@functools.cache
def source(path):
    result = Source([], set(), [])
    for node in ast.walk(trees()[path]):
        match node:
            case ast.ImportFrom(module=str(module)):
                result.imports.extend((module, alias.name) for alias in node.names)
            case ast.Import():
                result.imports.extend((alias.name, "") for alias in node.names)
            case ast.FunctionDef() | ast.ClassDef():
                result.defined.add(node.name)
            case ast.Name(ctx=ast.Store()):
                result.defined.add(node.id)
            case ast.Attribute():
                if isinstance(node.ctx, ast.Store):
                    result.defined.add(node.attr)
                if node.attr.startswith("_") and not node.attr.startswith("__"):
                    result.private.append((node.lineno, node.attr))
    return result


def graph():
    names = {
        ".".join(("flashnas", *path.with_suffix("").parts)).removesuffix(".__init__"): path
        for path in trees()
    }
    edges = defaultdict(set)
    for name, path in names.items():
        for module, taken in source(path).imports:
            target = f"{module}.{taken}" if f"{module}.{taken}" in names else module
            if target in names and target != name:
                edges[name].add(target)
    return edges


def test_every_folder_is_a_room_with_its_place():
    rooms = {room_of(path) for path in trees()} - {"__init__", "__main__"}
    assert rooms == set(ROOMS), "a new room needs its place in ROOMS and in CONTRIBUTING.md"


def test_a_room_imports_only_rooms_before_it():
    wrong = []
    for path in trees():
        if (room := room_of(path)) not in ROOMS:
            continue
        for module, taken in source(path).imports:
            parts = module.split(".")
            if parts[0] != "flashnas" or (
                module == "flashnas" and taken in ("", "__version__")
            ):  # the version
                continue
            target = parts[1] if len(parts) > 1 else taken
            if target not in ROOMS[: ROOMS.index(room) + 1]:
                wrong.append(f"{path} must not import {target}")
            if room == "cli" and target not in ("api", "base", "cli"):
                wrong.append(f"{path} may use api and base only, not {target}")
    assert not wrong


def test_no_import_circles():
    edges, done, trail = graph(), set(), []

    def visit(name):
        if name in trail:
            raise AssertionError(" -> ".join([*trail[trail.index(name) :], name]))
        if name not in done:
            trail.append(name)
            for target in sorted(edges[name]):
                visit(target)
            trail.pop()
            done.add(name)

    for name in sorted(edges):
        visit(name)


def test_torch_is_imported_only_where_networks_are_computed():
    wrong = [
        f"{path}: {name}"
        for path in trees()
        if room_of(path) not in WITH_TORCH
        for name, _ in source(path).imports
        if name.split(".")[0] == "torch"
    ]
    assert not wrong


def test_private_names_stay_in_their_room():
    defined = {
        room: set().union(*(source(path).defined for path in trees() if room_of(path) == room))
        for room in ROOMS
    }
    wrong = []
    for path in trees():
        if (room := room_of(path)) not in ROOMS:
            continue
        others = (
            set().union(*(names for other, names in defined.items() if other != room))
            - defined[room]
        )
        wrong += [
            f"{path}: imports {taken} of {module}"
            for module, taken in source(path).imports
            if module.startswith("flashnas.")
            and taken.startswith("_")
            and not taken.startswith("__")
            and module.split(".")[1] != room
        ]
        wrong += [
            f"{path}:{line}: uses {name} of another room"
            for line, name in source(path).private
            if name in others
        ]
    assert not wrong


def test_torch_is_not_loaded_by_these():
    modules = (
        "flashnas",
        "flashnas.operators",
        "flashnas.study.run_search",
        "flashnas.families.programs",
        "flashnas.latency.prediction",
        "flashnas.space.load",
    )
    script = f"import importlib; [importlib.import_module(name) for name in {modules}];"
    assert fresh.printed(f"{script} print('torch' in sys.modules)") == ["False"]


def test_the_help_loads_no_heavy_library():
    said = fresh.printed(
        "from flashnas.cli.main import main; code = main(['--help']);"
        "heavy = {'torch', 'pandas', 'optuna', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules);"
        "print(code, sorted(heavy))"
    )
    assert said[-1] == "0 []"
    assert any("search" in line for line in said)


@pytest.mark.slow  # a process that loads torch
def test_layers_load_no_compiler():
    """torch's takes as long as torch."""
    modules = "flashnas.network.model, flashnas.operators.attention.layer"
    said = fresh.printed(f"import {modules}; print('torch._dynamo' in sys.modules)")
    assert said == ["False"]
