"""Networks side by side: what each costs, and the reasons for the differences of their losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.architecture import Architecture
from flashnas.families.programs import loading
from flashnas.latency.fitting import Costs
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.run_folder.recorded_answer import Against, Side
from flashnas.study.comparison import below_zero
from flashnas.study.full_training import FullTraining
from flashnas.study.scorer import Scorer


def side_of(costs: Costs, training: FullTraining, network: Architecture) -> Side:
    """What a network costs."""
    metrics = costs.metrics(network)
    names = ("latency_ms", "lower_ms", "upper_ms", "memory_gb", "params", "active_params")
    return {
        "notation": network.notation,
        **{name: metrics[name] for name in names},  # type: ignore[typeddict-item]
        "train_hours": training.hours_of(network),
    }


def against(
    costs: Costs, scorer: Scorer, training: FullTraining, networks: Sequence[Architecture]
) -> list[Against]:
    """Each network beside the first one."""
    joint, dense = scorer.posterior(networks), [without_experts(network) for network in networks]
    found = list[Against]()
    for index, network in enumerate(networks):
        # to decimals in which equal networks have no difference
        difference, sd = (round(nats, 6) for nats in joint.difference(index, 0))
        parts: Mapping[str, Any] = {**scorer.reasons([dense[index], dense[0]])}
        figures = scorer.figures(network)
        found.append(
            {
                **side_of(costs, training, network),
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
