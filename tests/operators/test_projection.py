"""Projections of one token: by the transposed copy as by the weight itself, also after the weight
has changed."""

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_close

from flashnas.operators.parts import projection
from flashnas.operators.parts.projection import Projection


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [8, 40])
def test_one_token_equals_linear(rows, bias):
    torch.manual_seed(0)
    layer, x = Projection(16, rows, bias), torch.randn(1, 16)
    with torch.no_grad():
        for _ in range(2):
            assert_close(layer(x), F.linear(x, layer.weight, layer.bias), 1e-6, "one token")
            assert_close(layer(x[0]), F.linear(x[0], layer.weight, layer.bias), 1e-6, "no batch")
            layer.weight.mul_(2)
    assert layer(x).requires_grad


def test_only_wide_weights_are_copied_and_training_frees_the_copy():
    layers = [Projection(16, 8), Projection(16, 40)]
    with torch.no_grad():
        for layer in layers:
            layer(torch.randn(1, 16))
    assert [layer._transposed._copy is not None for layer in layers] == [False, True]
    layers[1].train()
    assert layers[1]._transposed._copy is None


def test_every_use_that_needs_no_copy_frees_it():
    layer = Projection(16, 40)

    def decoded():
        with torch.no_grad():
            layer(torch.randn(1, 16))
        return layer._transposed._copy is not None

    assert decoded()
    layer(torch.randn(1, 16))  # with a gradient
    assert layer._transposed._copy is None
    assert decoded()
    with torch.no_grad():
        layer(torch.randn(2, 16))
    assert layer._transposed._copy is None
    assert decoded()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        layer(torch.randn(1, 16))
    assert layer._transposed._copy is None
    assert decoded()


def test_new_memory_under_the_same_parameter_is_seen():
    layer, x = Projection(16, 40, False), torch.randn(1, 16)
    with torch.no_grad():
        for _ in range(20):  # an allocator returns the address that was freed last
            layer(x)
            layer.weight.data = torch.randn(40, 16)
            assert_close(layer(x), F.linear(x, layer.weight), 1e-6, "new memory")


def test_another_weight_gets_a_copy_of_its_own():
    torch.manual_seed(0)
    layer, x = Projection(16, 40, False), torch.randn(1, 16)
    with torch.no_grad():
        layer(x)
        layer.weight = torch.nn.Parameter(torch.randn(40, 16))
        assert_close(layer(x), F.linear(x, layer.weight), 1e-6, "new weight")
    assert projection.Transposed().of(layer.weight).shape == (16, 40)
