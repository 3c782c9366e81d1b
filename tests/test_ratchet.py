"""What keeps the house small: `room_characters.txt` may only fall, and no file grows past a few plain limits.

A room that has to grow raises its figure in the same commit, with the reason behind a `#`. A room that has become
smaller lowers it. `python tests/test_ratchet.py` writes today's figures and keeps the reasons.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "helpers"))  # where it is run as a program

from package_sources import texts, trees

TESTS = Path(__file__).parent
FIGURES = TESTS / "room_characters.txt"
SLACK = 1.02             # a room may be this much smaller than its figure before the figure has to follow
MAX_IMPORTS = 10         # other flashnas modules that a file imports
MAX_ARGUMENTS = 7        # of a constructor, without self; fields of dataclasses are not counted
MAX_LINES = 400          # of a file
MAX_WIDTH = 110          # characters of a line
FRONT_DOORS = ("__init__.py",)   # of the package: it names the public API
# files that still import more; a figure may only fall, and goes when it has reached MAX_IMPORTS
STILL_MORE = {
    "api/bench.py": 21, "api/scaling.py": 13, "api/pareto.py": 14,
    "profiling/profile.py": 15, "profiling/profile_runtime.py": 15,
    "latency/prediction.py": 14, "trust/published_study.py": 14, "api/measure.py": 11, "api/train.py": 11,
    "api/trust.py": 12, "profiling/whole_model.py": 12, "api/doctor.py": 11, "api/estimate.py": 11,
    "network/model.py": 12, "api/worker.py": 11, "profiling/setup.py": 11,
    "training/job.py": 11, "trust/study.py": 11}


def characters():
    """Room -> characters of its Python files."""
    rooms = defaultdict(int)
    for path, text in texts().items():
        rooms[path.parts[0] if len(path.parts) > 1 else "flashnas"] += len(text)
    return dict(sorted(rooms.items()))


def figures():
    """Room -> (figure, reason) of the file."""
    lines = [line.partition("#") for line in FIGURES.read_text().splitlines() if line.strip()]
    return {figure.split()[0]: (int(figure.split()[1]), reason.strip()) for figure, _, reason in lines
            if figure.strip()}


def test_no_room_grows():
    now, allowed = characters(), figures()
    assert set(now) == set(allowed), "rooms without a figure, or figures without a room"
    grown = [f"{room} has {now[room]} characters and {figure} are allowed"
             for room, (figure, _) in allowed.items() if now[room] > figure]
    assert not grown, "make it smaller, or raise the figure with its reason: " + "; ".join(grown)


def test_the_figures_follow_a_room_that_has_become_smaller():
    now = characters()
    loose = [f"{room} {now[room]}" for room, (figure, _) in figures().items() if now[room] * SLACK < figure]
    assert not loose, f"lower the figures in {FIGURES.name}: " + "; ".join(loose)


def imported(tree, names):
    """Modules of flashnas that a file imports, deferred imports too."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flashnas":
            modules |= {module if (module := f"{node.module}.{alias.name}") in names else node.module
                        for alias in node.names}
    return modules


def test_a_file_imports_few_modules():
    names = {".".join(("flashnas", *path.with_suffix("").parts)).removesuffix(".__init__") for path in trees()}
    counts = {str(path): len(imported(tree, names)) for path, tree in trees().items()
              if str(path) not in FRONT_DOORS}
    many = {path: count for path, count in counts.items() if count > STILL_MORE.get(path, MAX_IMPORTS)}
    assert not many, f"more than {MAX_IMPORTS} modules of flashnas, or than before: {many}"
    fewer = {path: counts.get(path) for path, figure in STILL_MORE.items() if counts.get(path) != figure}
    assert not fewer, f"lower the figures in STILL_MORE: {fewer}"


def test_a_constructor_has_few_arguments():
    many = [f"{path}:{node.lineno}" for path, tree in trees().items() for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
            and len(node.args.args) + len(node.args.kwonlyargs) - 1 > MAX_ARGUMENTS]
    assert not many, f"more than {MAX_ARGUMENTS} arguments: {many}"


def test_no_class_name_twice():
    places = defaultdict(list)
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path))
    twice = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not twice, f"one name for two classes: {twice}"


def test_lines_and_files_are_short():
    lines = {path: text.splitlines() for path, text in texts().items()}
    wide = [f"{path}:{number}" for path, text in lines.items() for number, line in enumerate(text, 1)
            if len(line) > MAX_WIDTH]
    assert not wide, f"more than {MAX_WIDTH} characters: {wide}"
    long = {str(path): len(text) for path, text in lines.items()
            if len(text) > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: {long}"


if __name__ == "__main__":
    reasons = {room: reason for room, (_, reason) in figures().items()} if FIGURES.exists() else {}
    FIGURES.write_text("".join(f"{room} {count}{'  # ' + reasons[room] if reasons.get(room) else ''}\n"
                               for room, count in characters().items()))
