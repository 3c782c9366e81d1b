"""Stand-ins for the GPU libraries have the parameters of the libraries, and our calls bind to
them.
"""

import ast
import inspect
import sys
from collections import Counter
from importlib.machinery import PathFinder
from pathlib import Path

import fake_libraries
import pytest
import torch
from layer_cases import make_inputs
from library_signatures import SIGNATURES, signatures

from flashnas.architecture import parse_operators
from flashnas.operators.backends.core import choose_backend
from flashnas.testing.forms import make_layer

HIDDEN = 64
STAND_INS = {
    (module, name): function
    for module, contents in fake_libraries.MODULES.items()
    for name, function in contents.items()
    if callable(function)
}


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
    assert isinstance(node, ast.Assign)
    body = next(
        part
        for part in nodes
        if f"{ast.unparse(node.value)}" in {f"{own}.apply" for own in _names(part)}
    )
    assert isinstance(body, ast.ClassDef)
    forward = next(
        part.args
        for part in body.body
        if isinstance(part, ast.FunctionDef) and part.name == "forward"
    )
    del forward.args[0]
    return forward


def test_stand_ins_have_the_parameters_of_fla():
    """From its source, which is not imported."""
    spec = PathFinder.find_spec("fla")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("flash-linear-attention is not installed")
    root, checked = Path(spec.submodule_search_locations[0]), 0
    for (place, name), stand_in in STAND_INS.items():
        if not place.startswith("fla."):
            continue
        path = root.joinpath(*place.split(".")[1:])
        files = (
            [path.with_suffix(".py")]
            if path.with_suffix(".py").exists()
            else sorted(path.rglob("*.py"))
        )
        theirs = next(
            _arguments(name, nodes)
            for nodes in ([*ast.parse(file.read_text()).body] for file in files)
            if any(name in _names(node) for node in nodes)
        )
        defaults = [ast.unparse(default) for default in theirs.defaults]
        names = [argument.arg for argument in (*theirs.args, *theirs.kwonlyargs)]
        ours = [
            p for p in inspect.signature(stand_in).parameters.values() if p.kind != p.VAR_KEYWORD
        ]
        assert [p.name for p in ours] == names, name
        if not theirs.kwonlyargs:
            given = [repr(p.default) for p in ours if p.default is not p.empty]
            assert given == [repr(ast.literal_eval(text)) for text in defaults], name
        checked += 1
    assert checked == 12


@pytest.mark.parametrize(("module", "name"), SIGNATURES, ids=str)
def test_a_stand_in_has_the_parameters_of_the_newest_release(module, name):
    assert inspect.signature(STAND_INS[module, name]) == signatures(module, name)[0]


def test_the_table_has_every_function_that_is_called():
    assert set(SIGNATURES) == {place for place in STAND_INS if not place[0].startswith("fla.")}


def test_calls_bind_to_every_release(monkeypatch):
    """Parallel forms, from nothing and from a state, and steps; as trained and as decoded."""
    called = Counter()

    def bound(place):
        def call(*arguments, **named):
            for signature in signatures(*place):
                signature.bind(*arguments, **named)
            called[place] += 1
            return STAND_INS[place](*arguments, **named)

        return call

    for packages, backend, texts in (
        (
            ("mamba_ssm", "selective_scan_cuda"),
            "mamba-ssm",
            "m2(head_dim=16,state=16) m2(head_dim=16,state=16,dt_min=0.01) m(state=8)",
        ),
        (("flash_attn",), "flash-attn", "a(head_dim=16) swa(head_dim=16,window=5)"),
    ):
        fake_libraries.install(monkeypatch, *packages, devices=("cpu",))
        for place in SIGNATURES:
            if place[0].split(".")[0] in packages:
                monkeypatch.setattr(sys.modules[place[0]], place[1], bound(place))
        for spec in parse_operators(texts):
            layer = make_layer(spec, HIDDEN, torch.bfloat16)
            choose_backend(layer, backend)
            x = make_inputs(9, HIDDEN).bfloat16().requires_grad_()
            y, state = layer(x)
            y.sum().backward()
            with torch.no_grad():
                state = layer(x, layer(x)[1])[1]
                layer.step(x[:, 0], state)
    assert {place for place in SIGNATURES if not called[place]} == set()
