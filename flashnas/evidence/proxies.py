"""The network that stands for a published row in a short training. No torch.

Publications hold parameters, latency or the layout equal, and print operators without sizes. Under the rule
`params` each full-size network has the width at which it has the published number of parameters; under
`layout` all networks of a group have the same width. Attention has as many key heads as query heads. Then all
widths of a group shrink by one factor, so that the middle one becomes the proxy's.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.evidence.trainings import PublishedRow, groups_of
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention

RULES = ("params", "layout")
_WIDTHS = tuple(range(256, 8193, 256))
_STEP = 4                 # proxies have widths that are multiples of it


def as_published(specs: Sequence[OperatorSpec], hidden: int) -> tuple[OperatorSpec, ...]:
    """Operators as publications mean them: attention without options has as many key heads as query heads."""
    return tuple(dataclasses.replace(spec, heads=hidden // spec.head_dim, kv_heads=hidden // spec.head_dim)
                 if isinstance(spec, Attention) and not spec.heads and not spec.kv_heads
                 and not hidden % spec.head_dim
                 else spec for spec in specs)


def full_network(row: PublishedRow, hidden: int) -> Architecture:
    """The row's network at a width."""
    return Architecture(hidden=hidden, operators=as_published(row.specs, hidden), vocab=max(2, row.vocab))


@functools.lru_cache(maxsize=1024)
def full_width(row: PublishedRow) -> float:
    """The hidden size that is stated, or, as a real number, at which the operators have the row's parameters.

    Raises ConfigError for a number that no width from 256 to 8192 reaches.
    """
    if row.hidden:
        return float(row.hidden)
    networks = full_networks(row)
    params = [network.params - (0 if row.vocab else network.vocab * network.hidden) for network in networks]
    if not params[0] <= row.params <= params[-1]:
        raise ConfigError(f"{row.named}: params must be from {params[0]:,} to {params[-1]:,}, which it has"
                          f" at widths {networks[0].hidden} to {networks[-1].hidden}; got {row.params:,.0f}")
    widths = [network.hidden for network in networks]
    return float(np.exp(np.interp(np.log(row.params), np.log(params), np.log(widths))))


@functools.lru_cache(maxsize=1024)
def full_networks(row: PublishedRow) -> tuple[Architecture, ...]:
    """The full-size networks of the row's operators at those of _WIDTHS that fit; ConfigError if none does.
    """
    built, reason = [], ""
    for width in _WIDTHS:
        try:
            built.append(full_network(row, width))
        except FlashnasError as error:
            reason = reason or str(error)
    if not built:
        raise ConfigError(f"{row.named} fits no width from {_WIDTHS[0]} to {_WIDTHS[-1]}: {reason}")
    return tuple(built)


def proxies(rows: Sequence[PublishedRow], *, width: int, width_factor: int, least_head_dim: int, vocab: int,
            rule: str = "params", depth_factor: int = 1) -> list[Architecture]:
    """The network that is trained for each row.

    Args:
        rows: all rows of the groups that are compared.
        width: of the proxy of a network with the median width of its group; the nearest one that can be
            built.
        width_factor, least_head_dim: by which heads, states and windows shrink, and not below this.
        rule: one of RULES. Widths follow from the full depth.
        depth_factor: proxies have every so many-th operator of each kind.

    Raises:
        ConfigError: for a row that cannot be built near its width, or whose number of parameters no width
            has.
    """
    def built(place: int, small: int) -> Architecture:
        try:
            scaled = full_network(rows[place], small * width_factor).scaled(width_factor, least_head_dim)
            return Architecture(hidden=small, operators=scaled.operators, vocab=vocab)
        except FlashnasError as error:
            raise ConfigError(f"{rows[place].named} cannot be built at width {small}: {error}") from None

    networks: dict[int, Architecture] = {}
    for places in groups_of(rows).values():
        widths = {place: full_width(rows[place]) for place in places}  # baselines need them under every rule
        middle = statistics.median(widths.values())
        alike = [[place] for place in places] if rule == "params" else [places]
        for together in alike:
            target = width * widths[together[0]] / middle if rule == "params" else width
            networks |= _nearest(together, target, built)
    return [networks[place].shallower(depth_factor) for place in range(len(rows))]


def _nearest(places: Sequence[int], target: float, built: Callable[[int, int], Architecture],
             ) -> dict[int, Architecture]:
    """The networks of these rows at the width nearest to the target at which all can be built."""
    first: ConfigError | None = None
    widths = range(_STEP, max(_STEP, 2 * round(target)) + 1, _STEP)
    for small in sorted(widths, key=lambda small: abs(small - target)):
        try:
            return {place: built(place, small) for place in places}
        except ConfigError as error:
            first = first or error
    assert first is not None
    raise first
