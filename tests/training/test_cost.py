import pytest

from flashnas.architecture import Architecture
from flashnas.training.cost import training_flops
from flashnas.training.recipe import Recipe


def test_flops_are_those_of_products_and_of_pairs_of_tokens():
    recipe = Recipe(
        tokens=10_240,
        sequence_tokens=256,
        batch_sequences=4,
        validation_tokens=1024,
        curve_tokens=512,
        curve_points=3,
    )
    tokens = 3 * 10_240 + 1024 + 2 * 512  # a backward pass is two forward ones
    network = Architecture.parse("64(vocab=300): f")
    # the tied head multiplies; norms and the look-up of a token do not
    weights = network.params - 64 - 64
    assert training_flops(network, recipe) == 2 * weights * tokens
    network = Architecture.parse("64(vocab=300): a(heads=4,kv_heads=4,head_dim=16)")
    products = 2 * (4 * 64 * 64 + 300 * 64)
    # q k and weights v, over the mean context that a causal mask leaves
    pairs = 2 * 2 * 64 * (256 + 1) / 2
    assert training_flops(network, recipe) == pytest.approx((products + pairs) * tokens)
