"""Imports go down the list of rooms only, and torch stays where networks are computed; no file is
an exception.
"""

import ast
import re
from pathlib import Path

from fresh import printed
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


def test_private_names_stay_in_their_room():
    wrong = [
        f"{path} imports {alias.name} of {node.module}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flashnas.")
        for alias in node.names
        if re.match("_[^_]", alias.name) and node.module.split(".")[1] != room_of(path)
    ]
    assert not wrong


def test_torch_is_imported_only_where_networks_are_computed():
    wrong = [
        f"{path}: {name}"
        for path, names in imports().items()
        if room_of(path) not in WITH_TORCH
        for name in names
        if name.split(".")[0] == "torch"
    ]
    assert not wrong


STEPS = {  # of one process, and what it has not loaded after each
    "import flashnas as fn": "yaml numpy pandas optuna scipy matplotlib torch",
    "from flashnas.cli.main import main; main(['--help'])": "numpy pandas optuna scipy matplotlib",
    "main(['list', 'samplers']); main(['list', 'spaces'])": "pandas optuna scipy torch",
    "fn.export('LFM2-2.6B', to='hf', no_weights=True, out='out')": "pandas transformers torch",
    "import flashnas.study.run_search, flashnas.families.programs, flashnas.space.load": "torch",
    "import flashnas.network.model, flashnas.operators.attention.layer": "torch._dynamo",
}


def test_heavy_libraries_are_loaded_by_what_needs_them(tmp_path, monkeypatch):
    """torch's compiler takes as long as torch."""
    monkeypatch.chdir(tmp_path)
    script = "; ".join(
        f"{step}; print('loaded', sorted({{*{names.split()}}} & {{*sys.modules}}))"
        for step, names in STEPS.items()
    )
    loaded = [line for line in printed(script) if line.startswith("loaded")]
    assert dict(zip(STEPS, loaded, strict=True)) == dict.fromkeys(STEPS, "loaded []")
