import re

import pytest

from flashnas.architecture import Architecture
from flashnas.space import load_space
from flashnas.training.cost import ASSUMED_UTILISATION, H100_FLOPS, expected_seconds, training_flops
from flashnas.training.recipe import RECIPES, Recipe


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


@pytest.mark.parametrize("name", ["gpu", "gpu-paper"])
def test_the_comments_of_the_gpu_recipes_state_what_they_cost(name):
    recipe, comment = Recipe.load(name), (RECIPES / f"{name}.yaml").read_text().replace("\n# ", " ")
    baselines = load_space("nemotron_flash").baselines()
    flops = max(training_flops(recipe.proxy_of(sizes[0]), recipe) for _, sizes in baselines)
    assert float(re.search(r"up to ([\d.e+]+) FLOP", comment)[1]) == pytest.approx(flops, rel=0.05)
    assert f"{ASSUMED_UTILISATION * 100:.0f} % of {H100_FLOPS / 1e12:.0f}e12 FLOP/s" in comment
    number, unit = re.search(r"(\d+) (minutes|hours)", comment).groups()
    seconds = int(number) * {"minutes": 60, "hours": 3600}[unit]
    assert seconds == pytest.approx(expected_seconds(flops, recipe), rel=0.02)


def test_the_gpu_recipe_leaves_no_partial_micro_batch():
    for name in ("gpu", "gpu-paper"):
        recipe = Recipe.load(name)
        assert recipe.batch_sequences % recipe.micro_batch_sequences == 0
        assert recipe.steps * recipe.batch_tokens < 1.01 * recipe.tokens
