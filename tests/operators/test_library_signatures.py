"""Stand-ins for the GPU libraries have the parameters of the libraries."""

import ast
import inspect
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from fake_libraries.shared import SIGNATURES


def _names(node):
    """What a statement at the top of a module defines, in place of a name that it imports."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []


def _arguments(name, nodes):
    """Of a function, or of `forward` where it is the `apply` of a class."""
    node = next(node for node in nodes if name in _names(node))
    if isinstance(node, ast.FunctionDef):
        return node.args
    owner = ast.unparse(node.value).removesuffix(".apply")
    body = next(part.body for part in nodes if owner in _names(part))
    forward = next(part.args for part in body if "forward" in _names(part))
    del forward.args[0]
    return forward


@pytest.mark.parametrize("place", [name for name in SIGNATURES if name.startswith("fla.")])
def test_stand_ins_have_the_parameters_of_fla(place):
    """From its source, which is not imported."""
    spec = PathFinder.find_spec("fla")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("flash-linear-attention is not installed")
    _, *folders, name = place.split(".")
    path = Path(spec.submodule_search_locations[0]).joinpath(*folders)
    nodes = next(
        nodes
        for file in (path.with_suffix(".py"), *sorted(path.rglob("*.py")))
        if file.exists()
        for nodes in [ast.parse(file.read_text()).body]
        if any(name in _names(node) for node in nodes)
    )
    theirs = _arguments(name, nodes)
    for part in ast.walk(theirs):
        if isinstance(part, ast.arg):
            part.annotation = None
    assert inspect.signature(eval(f"lambda {ast.unparse(theirs)}: None")) == SIGNATURES[place]
