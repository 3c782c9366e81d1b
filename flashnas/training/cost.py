"""What a training costs in FLOPs, and the rates that its time limit assumes. No torch.

The rates are round figures. That of a CPU is slower than nine tenths of the 408 short trainings of
0.1.0. That of a GPU is an assumption: one H100 computes 989e12 FLOP/s of dense bfloat16 products, and
training in eager torch is taken to reach 15 % of it.
"""

from flashnas.architecture import Architecture
from flashnas.training.recipe import Recipe

BACKWARD = 2  # FLOPs of a backward pass over those of a forward pass
H100_FLOPS = 989e12  # per second, dense bfloat16 (NVIDIA's data sheet)
ASSUMED_UTILISATION = 0.15
# FLOP/s; of one thread, of one GPU
ASSUMED_RATES = {"cpu": 1e10, "cuda": ASSUMED_UTILISATION * H100_FLOPS}


def training_flops(network: Architecture, recipe: Recipe) -> float:
    """FLOPs of a training with its validations.

    Args:
        network: what is trained: `recipe.proxy_of` of an architecture.
        recipe: of the training.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe.load("cpu")
        >>> f"{training_flops(recipe.proxy_of(fn.Architecture.parse('2048: 6x(d f)')), recipe):.1e}"
        '1.4e+12'
    """
    forward = network.flops_per_token(recipe.sequence_tokens)
    trained = recipe.steps * recipe.batch_tokens
    validated = recipe.validation_tokens + (len(recipe.curve_at) - 1) * recipe.curve_tokens
    return forward * ((1 + BACKWARD) * trained + validated)
