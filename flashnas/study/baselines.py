"""Stacks that a search compares with: the best pure stack of each mixer, which a hybrid has to beat,
and the even order of operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.evidence.composition import outside_support
from flashnas.latency.fitting import Fitter
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward


@functools.lru_cache(maxsize=65_536)
def unevenness(operators: tuple[OperatorSpec, ...]) -> float:
    """How far a stack is from one whose operators of each kind are spread evenly: 0 or more."""
    total = 0.0
    for kind in dict.fromkeys(
        spec.kind for spec in operators
    ):  # in a fixed order: sums keep their bits
        positions = (np.flatnonzero([spec.kind == kind for spec in operators]) + 0.5) / len(
            operators
        )
        total += float(
            np.mean((positions - (np.arange(len(positions)) + 0.5) / len(positions)) ** 2)
        )
    return total


def evenly_spread(operators: Sequence[OperatorSpec]) -> tuple[OperatorSpec, ...]:
    """The same operators in an even order: the mixers of each kind are spread over the stack, and the
    feed-forward layers over the mixers, behind which they stand."""
    mixers = [spec for spec in operators if spec.mixes_tokens]
    others = [spec for spec in operators if not spec.mixes_tokens]
    ordered: list[OperatorSpec] = []
    rest = _spread(others)
    for number, spec in enumerate(_spread(mixers), 1):
        ordered.append(spec)
        while rest and len(others) - len(rest) < number * len(others) // len(mixers):
            ordered.append(rest.pop(0))
    return (*ordered, *rest)


def _spread(specs: Sequence[OperatorSpec]) -> list[OperatorSpec]:
    """Each kind at equal distances, the most frequent one first where two have the same place."""
    spread = []
    for spec in dict.fromkeys(specs):
        count = specs.count(spec)
        spread += [((number + 0.5) / count, -count, str(spec), spec) for number in range(count)]
    return [spec for *_, spec in sorted(spread, key=lambda entry: entry[:3])]


def pure_stacks(
    fitter: Fitter[Any],
    score: Callable[[Sequence[Architecture]], np.ndarray],
) -> list[tuple[str, Architecture]]:
    """The best pure stack of each mixer within the budgets: label and network.

    All depths up to the space's, all its widths, and every share of feed-forward layers that
    publications have are looked at: none, one behind every second mixer, one behind each. score:
    networks -> values [N], lower is better.
    """
    space: Any = fitter.space  # an OperatorSpace
    ffn = space.ffn or FeedForward()
    kinds = [spec.kind for spec in space.mixers]
    result = []
    for spec in space.mixers:
        name = spec.kind if kinds.count(spec.kind) == 1 else str(spec)
        blocks = {f"{name} f": (spec, ffn), f"{name} {name} f": (spec, spec, ffn), name: (spec,)}
        stacks: list[tuple[str, Architecture]] = []
        for text, block in blocks.items():
            for repeats in range(1, max(space.max_operators // len(block), 1) + 1):
                sizes = space.widths_of(block * repeats)
                stacks += [
                    (f"{repeats}x({text})", network)
                    for network in sizes
                    if not _unpublished(network.operators, network.hidden)
                ]
        fitting = _fitting(fitter, stacks)
        if fitting:
            values = score([network for _, network in fitting])
            label, network = fitting[int(np.argmin(values))]
            result.append((f"pure {network.hidden}: {label}", network))
    return result


def _fitting(
    fitter: Fitter[Any], stacks: Sequence[tuple[str, Architecture]]
) -> list[tuple[str, Architecture]]:
    stacks = [pair for pair in stacks if fitter.holds(pair[1])]
    if fitter.allowed is not None:
        stacks = [pair for pair in stacks if fitter.allowed(pair[1])]
    if all(budget.metric == "latency_ms" for budget in fitter.budgets):
        latencies = fitter.costs.latencies([network for _, network in stacks])
        return [
            pair
            for pair, latency_ms in zip(stacks, latencies, strict=True)
            if latency_ms is not None and fitter.fits({"latency_ms": latency_ms})
        ]
    return [pair for pair in stacks if fitter.fits_network(pair[1])]


@functools.lru_cache(maxsize=65_536)
def _unpublished(operators: tuple[Any, ...], hidden: int) -> bool:
    """True if publications have no stack of such a composition."""
    network = Architecture(hidden=hidden, operators=operators)
    return any("operators" in words for words in outside_support(network))
