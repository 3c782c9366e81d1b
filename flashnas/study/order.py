"""Orders among networks that the evidence takes as equal: which one is simplest, and how even the
order of its operators is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.families.programs import loading
from flashnas.operators import OperatorSpec
from flashnas.study.scorer import complexity

DECIMALS = 9  # in which two orders are equally even, on any CPU


def simplicity(network: Any) -> tuple[Any, ...]:
    """By which networks that are as good are ordered, the simplest first: how many programs load
    it, prices for complexity, layers, width, how even its order is, notation."""
    if not isinstance(network, Architecture):
        return (network.notation,)
    return (
        -len(loading(network)),
        complexity(network),
        len(network.operators),
        network.hidden,
        round(unevenness(network.operators), DECIMALS),
        network.notation,
    )


def mixer_kinds(network: Architecture) -> frozenset[str]:
    """The kinds of its token mixers."""
    return frozenset(spec.kind for spec in network.operators if spec.mixes_tokens)


@functools.lru_cache(maxsize=65_536)
def unevenness(operators: tuple[OperatorSpec, ...]) -> float:
    """How far a stack is from one whose operators of each kind are spread evenly: 0 or more."""
    total = 0.0
    # in a fixed order: sums keep their bits
    for kind in dict.fromkeys(spec.kind for spec in operators):
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
