"""Products of a GPU have rows and columns that are multiples of 8, at every shipped width and in every proxy."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from layer_cases import SPECS, assert_close, make_inputs, make_layer
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.base.errors import OperatorError
from flashnas.base.shipped import shipped_names
from flashnas.operators import OPERATORS, OperatorSpec
from flashnas.operators.backends.core import choose_backend
from flashnas.operators.layer import build_layer
from flashnas.operators.parts import projection
from flashnas.operators.parts.projection import ALIGNED
from flashnas.operators.spec import PROXY_HEAD_DIM
from flashnas.space import load_space
from flashnas.training.recipe import Recipe


class Products(TorchDispatchMode):
    """The sides of the weights that activations are multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::mm", "aten::addmm"):
            self.sides.add(tuple(args[-1].shape))
        return func(*args, **(kwargs or {}))


def shipped() -> Iterator[tuple[OperatorSpec, int]]:
    """Operators and widths: those of each space, and all kinds at the widest, in full and as a GPU trains
    them."""
    recipe, seen = Recipe.load("gpu"), set()
    for name in shipped_names("search_spaces", ".yaml"):
        space = load_space(name)
        kinds = [*space.kinds(), *(OPERATORS[kind]() for kind in OPERATORS if name == "nemotron_flash")]
        for hidden in space.hidden_sizes:
            for factor, least in ((1, 0), (space.width_factor or 1, PROXY_HEAD_DIM),
                                  (recipe.width_factor, recipe.least_head_dim)):
                for spec in kinds:
                    with contextlib.suppress(OperatorError):  # heads that do not divide the width
                        place = spec.scaled(hidden, factor, least).resolved(hidden // factor), hidden // factor
                        if place not in seen:
                            seen.add(place)
                            yield place


@pytest.mark.slow
def test_every_product_at_every_shipped_width_and_proxy_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    offenders = []
    for spec, hidden in shipped():
        with torch.device("meta"):
            layer = build_layer(spec, hidden)
            choose_backend(layer, "torch")
        with torch.no_grad(), Products() as products:
            layer.step(torch.empty(2, hidden, device="meta"), layer.init_state(2, torch.float32, "meta"))
        offenders += [f"{spec} at {hidden}: {sides}" for sides in products.sides
                      if any(side % ALIGNED for side in sides)]
    assert offenders == []


PADDED = {spec.kind: name for name, spec in SPECS.items() if spec.kind in ("d", "gd", "kda", "m2", "m")}


@pytest.mark.parametrize("name", PADDED.values())
def test_padded_products_give_the_same_outputs_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the memory of the weights has moved, and where it may not; names and sizes of parameters stay as
    they are."""
    plain, x = make_layer(name), make_inputs(9)
    padded = copy.deepcopy(plain)
    plain(x)[0].square().sum().backward()
    monkeypatch.setattr(projection, "_pads", lambda x: True)
    for moves in (True, True, False):
        for part in padded.modules():
            part.weights_move = moves
        padded.zero_grad()
        padded(x)[0].square().sum().backward()
        for (place, expected), got in zip(plain.named_parameters(), padded.parameters(), strict=True):
            assert got.shape == expected.shape
            assert_close(got.grad, expected.grad, 1e-12, place)
        padded = copy.deepcopy(padded)
    with torch.inference_mode():
        built = build_layer(SPECS[name], 64)  # as where it is timed
        built.step(torch.randn(3, 64), built.init_state(3, torch.float32))
        with torch.no_grad():
            for parameter in padded.parameters():
                parameter.mul_(2)
        assert_close(padded(x)[0], copy.deepcopy(padded)(x)[0], 1e-12, "after an edit")
