"""Networks beside another one: what each costs, the differences of their losses, and the reasons for
these."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from flashnas.architecture import Architecture
from flashnas.families.programs import loading
from flashnas.latency.fitting import Costs
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.run_folder.recorded_answer import Against, Side
from flashnas.study.answer import below_zero
from flashnas.study.full_training import full_training_hours
from flashnas.study.scorer import Scorer


def side_of(costs: Costs, scorer: Scorer, network: Architecture) -> Side:
    """What a network costs."""
    metrics = costs.metrics(network)
    names = ("latency_ms", "lower_ms", "upper_ms", "memory_gb", "params", "active_params")
    return {
        "notation": network.notation,
        **{name: metrics[name] for name in names},  # type: ignore[typeddict-item]
        "silence": scorer.figures(network)["silence"],
        "h100_hours": full_training_hours(network, scorer.tokens),
    }


def against(costs: Costs, scorer: Scorer, networks: Sequence[Architecture]) -> list[Against]:
    """Each network beside the first one."""
    joint, dense = scorer.posterior(networks), [without_experts(network) for network in networks]
    found = list[Against]()
    for index, network in enumerate(networks):
        # to decimals in which equal networks have no difference
        difference, sd = (round(nats, 6) for nats in joint.difference(index, 0))
        parts: dict[str, Any] = {**scorer.reasons([dense[index], dense[0]])}
        figures = scorer.figures(network)
        found.append(
            {
                **side_of(costs, scorer, network),
                "throughput_tok_s": costs.metrics(network)["throughput_tok_s"],
                "loads_in": list(loading(network)),
                "difference": difference,
                "sd": sd,
                "probability": below_zero(difference, sd),
                "reasons": {**parts, "experts": difference - sum(parts.values())},
                "recall": figures["expected_recall"],
                "recall_sd": figures["expected_recall_sd"],
                "outside": figures["outside"],
            }
        )
    return found


def without_experts(network: Architecture) -> Architecture:
    """With feed-forward layers of the width that a token passes in place of experts."""
    operators = list(network.operators)
    for place, spec in enumerate(operators):
        if isinstance(spec, MixtureOfExperts):
            inner = spec.resolved(network.hidden).intermediate
            operators[place] = FeedForward(intermediate=spec.active * inner + spec.shared)
    return dataclasses.replace(network, operators=tuple(operators))
