"""The network that stands for a published row in a short training. No torch.

Publications print operators without sizes. Attention has as many key heads as query heads, and the
width follows from the number of parameters.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import statistics
from collections.abc import Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.evidence.trainings import SHIPPED, PublishedRow, groups_of
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.training.recipe import Recipe

SHORT_LOSSES = SHIPPED.parent / "short_losses.csv"
FULL_WIDTH = 2048  # that the median network of a group has before it is shrunk
_WIDTHS = tuple(range(256, 8193, 256))
_STEP = 4  # of the widths of proxies


def as_published(specs: Sequence[OperatorSpec], hidden: int) -> tuple[OperatorSpec, ...]:
    """Operators as publications mean them: attention without options has as many key heads as query
    heads.
    """
    return tuple(
        dataclasses.replace(spec, heads=hidden // spec.head_dim, kv_heads=hidden // spec.head_dim)
        if isinstance(spec, Attention)
        and not spec.heads
        and not spec.kv_heads
        and not hidden % spec.head_dim
        else spec
        for spec in specs
    )


def full_network(row: PublishedRow, hidden: int) -> Architecture:
    """The row's network at a width."""
    return Architecture(
        hidden=hidden, operators=as_published(row.specs, hidden), vocab=max(2, row.vocab)
    )


@functools.lru_cache(maxsize=1024)
def full_width(row: PublishedRow) -> float:
    """The hidden size that is stated, or, as a real number, at which the operators have the row's
    parameters.

    Raises ConfigError for a number that no width from 256 to 8192 reaches.
    """
    if row.hidden:
        return float(row.hidden)
    networks = _full_networks(row)
    params = [
        network.params - (0 if row.vocab else network.vocab * network.hidden)
        for network in networks
    ]
    if not params[0] <= row.params <= params[-1]:
        raise ConfigError(
            f"{row.named}: params must be from {params[0]:,} to {params[-1]:,}, which it has"
            f" at widths {networks[0].hidden} to {networks[-1].hidden}; got {row.params:,.0f}"
        )
    widths = [network.hidden for network in networks]
    return float(np.exp(np.interp(np.log(row.params), np.log(params), np.log(widths))))


def _full_networks(row: PublishedRow) -> list[Architecture]:
    """The full-size networks of the row's operators at those of _WIDTHS that fit; ConfigError if
    none does.
    """
    built, reason = [], ""
    for width in _WIDTHS:
        try:
            built.append(full_network(row, width))
        except FlashnasError as error:
            reason = reason or str(error)
    if not built:
        raise ConfigError(f"{row.named} fits no width from {_WIDTHS[0]} to {_WIDTHS[-1]}: {reason}")
    return built


def proxies(rows: Sequence[PublishedRow], recipe: Recipe) -> list[Architecture]:
    """The network that a recipe trains for each row.

    Each full-size network has the width at which it has the published number of parameters. All
    widths of a group shrink by one factor, so that the median becomes FULL_WIDTH divided by the
    width factor of the recipe; the widths that can be built are multiples of _STEP.

    Args:
        rows: all rows of the groups that are compared.

    Raises:
        ConfigError: for a row that cannot be built near its width, or whose number of parameters no
            width has.
    """
    networks: dict[int, Architecture] = {}
    for members in groups_of(rows).values():
        middle = statistics.median(full_width(rows[index]) for index in members)
        for index in members:
            target = FULL_WIDTH / recipe.width_factor * full_width(rows[index]) / middle
            networks[index] = _proxy(rows[index], target, recipe)
    return [networks[index] for index in range(len(rows))]


def _proxy(row: PublishedRow, target: float, recipe: Recipe) -> Architecture:
    """The row's network at the width closest to the target at which it can be built."""
    first: FlashnasError | None = None
    widths = range(_STEP, max(_STEP, 2 * round(target)) + 1, _STEP)
    for width in sorted(widths, key=lambda width: abs(width - target)):
        try:
            full = full_network(row, width * recipe.width_factor)
            small = full.scaled(recipe.width_factor, recipe.least_head_dim)
            return Architecture(hidden=width, operators=small.operators, vocab=recipe.vocab)
        except FlashnasError as error:
            first = first or ConfigError(f"{row.named} cannot be built at width {width}: {error}")
    assert first is not None
    raise first


def short_trainings(rows: Sequence[PublishedRow]) -> list[tuple[Architecture, float] | None]:
    """The proxy of each row and its loss after a training by the recipe `cpu`; None where there is
    none.

    The losses are those of the shipped bench under seed 0.
    """
    with SHORT_LOSSES.open(encoding="utf-8", newline="") as file:
        losses = {line["proxy"]: float(line["loss"]) for line in csv.DictReader(file)}
    networks = proxies(rows, Recipe.load("cpu"))
    return [
        (network, losses[network.notation]) if network.notation in losses else None
        for network in networks
    ]
