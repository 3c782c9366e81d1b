"""Imports go down the list of rooms only, and torch stays where networks are computed; no file is
an exception.
"""

import re
from pathlib import Path

import fresh
import pytest
from package_sources import imports, modules, trees

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


def room_of(path):
    return path.parts[0].removesuffix(".py")


def test_every_folder_is_a_room_with_its_place():
    rooms = {room_of(path) for path in trees()} - {"__init__", "__main__"}
    assert rooms == set(ROOMS), "a new room needs its place in ROOMS and in CONTRIBUTING.md"


def test_a_room_imports_only_rooms_before_it():
    wrong = []
    for path, names in imports().items():
        if (room := room_of(path)) not in ROOMS:
            continue
        for name in names - {"flashnas", "flashnas.__version__"}:
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if package == "flashnas" and target not in ROOMS[: ROOMS.index(room) + 1]:
                wrong.append(f"{path} must not import {target}")
            if package == "flashnas" and room == "cli" and target not in ("api", "base", "cli"):
                wrong.append(f"{path} may use api and base only, not {target}")
    assert not wrong


def test_no_import_circles():
    done, trail = set(), []

    def visit(name):
        if name in trail:
            raise AssertionError(" -> ".join([*trail[trail.index(name) :], name]))
        if name not in done:
            trail.append(name)
            for target in sorted(imports()[modules()[name]] & {*modules()} - {name}):
                visit(target)
            trail.pop()
            done.add(name)

    for name in sorted(modules()):
        visit(name)


def test_torch_is_imported_only_where_networks_are_computed():
    wrong = [
        f"{path}: {name}"
        for path, names in imports().items()
        if room_of(path) not in WITH_TORCH
        for name in names
        if name.split(".")[0] == "torch"
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
