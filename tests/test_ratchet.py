"""Plain limits on the size of files. `python tools/size.py` counts the tokens of a room."""

import ast
from collections import defaultdict

from package_sources import imports, texts, trees

MAX_IMPORTS = 13  # other flashnas modules that a file imports
MAX_ARGUMENTS = 7  # of a constructor, without self; fields of dataclasses are not counted
MAX_LINES = 400  # of a file
MAX_FUNCTION = 60  # lines of a function, without its docstring
MAX_WIDTH = 110  # characters of a line
FRONT_DOORS = ("__init__.py",)  # of the package: it names the public API
IN_STUDY = 18  # the room that puts the others together
ENTRIES = {"study/load.py": 20, "study/run_search.py": 23}  # where a search is put together


def test_a_file_imports_few_modules():
    counts = {
        str(path): sum(name.startswith("flashnas") for name in names)
        for path, names in imports().items()
        if str(path) not in FRONT_DOORS
    }
    most = {
        path: ENTRIES.get(path, IN_STUDY if path.startswith("study/") else MAX_IMPORTS)
        for path in counts
    }
    many = {path: count for path, count in counts.items() if count > most[path]}
    assert not many, f"more than {MAX_IMPORTS} modules of flashnas: {many}"


def test_a_constructor_has_few_arguments():
    many = [
        f"{path}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name == "__init__"
        and len(node.args.args) + len(node.args.kwonlyargs) - 1 > MAX_ARGUMENTS
    ]
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
    wide = [
        f"{path}:{number}"
        for path, text in lines.items()
        for number, line in enumerate(text, 1)
        if len(line) > MAX_WIDTH
    ]
    assert not wide, f"more than {MAX_WIDTH} characters: {wide}"
    long = {str(path): len(text) for path, text in lines.items() if len(text) > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: {long}"


def test_functions_are_short():
    long = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node) is not None
                doc = first.end_lineno - first.lineno + 1 if documented else 0
                lines = node.end_lineno - node.lineno + 1 - doc
                if lines > MAX_FUNCTION:
                    long[f"{path}: {node.name}"] = lines
    assert not long, f"more than {MAX_FUNCTION} lines: {long}"
