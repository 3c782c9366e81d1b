"""An evaluator and a latency that cost nothing, to try a search before it trains: two formulas. No
torch.
"""

from __future__ import annotations

import math

from flashnas_gpt2_space.space import Gpt2


def guess(model: Gpt2, *, seed: int = 0) -> float:
    """About the loss that a model would have: larger ones end lower. seed: of a little noise."""
    noise = math.sin(sum(map(ord, model.hash)) * (seed + 1))
    return 6.0 - 0.3 * math.log(model.params) + 0.01 * model.heads + 0.02 * noise


def layers_ms(model: Gpt2) -> float:
    """Milliseconds, the more the deeper and the wider."""
    return model.layers * (1.0 + model.width / 100)
