"""What a mixture of experts adds to a network of its active size: by how many times its parameters
exceed the active ones, and by how fine its experts are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.base.text import tokens_text
from flashnas.loss.mathematics import ATTENTION, MATHEMATICS
from flashnas.operators import OperatorSpec
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts

PARAMETERS = 1e9  # the law's unit of parameters
# standard deviations of the columns of the law, in nats for each, where no fit gives them: of its slope
# over size, of ln(gamma), of g. Their means are 0, because the law has what experts gain.
EXPERT_SDS = {"experts_slope": 0.3, "experts_gamma": 0.7, "experts_g": 0.15}
# of what publications do not vouch for: for each factor of e in active size, and in parameters over
# active ones; and as a share of the gain
EXPERT_SILENT_SDS = {"experts_size": 0.05, "experts_times": 0.15, "experts_mixers": 0.3}
# of the trained networks with experts that ship; parameters are without embeddings
ACTIVE = (1.2e8, 9.2e8)  # parameters that one token uses
MOST_TIMES = 33.0  # parameters over active ones


def log_granularity(networks: Networks) -> np.ndarray:
    """ln(width that a token passes / width of an expert), the mean over feed-forward layers by the
    parameters that a token uses [N]. The width that a token passes is that of its experts and of the
    shared one together; a dense layer counts 0."""

    def fine(spec: OperatorSpec, hidden: int) -> float:
        if not isinstance(spec, MixtureOfExperts):
            return 0.0
        inner = spec.resolved(hidden).intermediate
        return spec.active_params(hidden) * math.log(spec.active + spec.shared / inner)

    total = networks.totals(
        lambda spec, hidden: 0.0 if spec.mixes_tokens else spec.active_params(hidden)
    )
    return networks.totals(fine) / np.where(total > 0, total, 1.0)


def gain_of_experts(
    law: Any, params: np.ndarray, active: np.ndarray, log_fine: np.ndarray, tokens: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The parameters that a network counts as [N]; and what experts lower the loss by, with the
    derivatives of that by ln(gamma) and by g, 0 of dense networks. law: a `Law`. log_fine [N]:
    `log_granularity`."""
    by_count = law.gamma * np.log(params / active)
    counted = active * np.exp(by_count + law.g * log_fine)
    before, after = (law.by_size(n) + law.by_tokens(n, tokens) for n in (active, counted))
    slope = law.fall(counted, tokens)
    return counted, before - after, slope * by_count, slope * log_fine


def silent_columns(
    params: np.ndarray, active: np.ndarray, untried: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Of networks with experts, 0 of dense ones [N]: by how much the logarithms of the active size
    and of `params / active` lie outside of what was trained; and what they gain, `untried`, beside mixers
    beside which nobody has compared experts with a dense network.
    """
    sparse = params > active
    outside = np.abs(np.log(active) - np.log(np.clip(active, *ACTIVE)))
    times = np.maximum(np.log(params / active / MOST_TIMES), 0.0)
    return sparse * outside, sparse * times, sparse * untried


def outside_of_experts(network: Architecture, params: float, active: float) -> list[str]:
    """What of a network with experts no publication has trained; one sentence part each."""
    if params <= active:
        return []
    low, high = map(tokens_text, ACTIVE)
    found = {
        f"{tokens_text(active)} active parameters beside experts (publications have {low} to"
        f" {high})": not ACTIVE[0] <= active <= ACTIVE[1],
        f"{params / active:.0f} times as many parameters as active ones; publications have at most"
        f" {MOST_TIMES:.0f} times": params > MOST_TIMES * active,
        "experts in a hybrid, never compared with a dense one": any(
            spec.mixes_tokens and MATHEMATICS.get(spec.kind) != ATTENTION
            for spec in network.operators
        ),
    }
    return [words for words, outside in found.items() if outside]
