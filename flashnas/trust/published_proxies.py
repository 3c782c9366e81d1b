"""The network that stands for a published row in a short training. No torch.

Publications hold parameters, latency or the layout equal, and print operators without sizes. The matching rule fills
the sizes in: `params` gives each full-size network the width at which it has the published number of parameters;
`layout` gives every network of a group the same width. All other options are at their defaults, but attention has as
many key heads as query heads. Then all widths of a group shrink by one factor, so that the middle one becomes the
proxy's.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.operators.attention.spec import Attention
from flashnas.trust.published import PublishedRow, groups_of

RULES = ("params", "layout")
TOKENIZER_WORDS = 32_000  # of the full-size networks: publications rarely state theirs; one matrix, tied
_WIDTHS = tuple(range(256, 8193, 256))
_STEP = 4                 # proxies have widths that are multiples of it


def full_network(row: PublishedRow, hidden: int) -> Architecture:
    """The row's network at a width. Attention without options has as many key heads as query heads: most publications
    train it so, and a proxy has a single head of each."""
    specs = [dataclasses.replace(spec, heads=hidden // spec.head_dim, kv_heads=hidden // spec.head_dim)
             if isinstance(spec, Attention) and not spec.heads and not spec.kv_heads else spec for spec in row.specs]
    return Architecture(hidden=hidden, operators=tuple(specs), vocab=TOKENIZER_WORDS)


def full_width(row: PublishedRow) -> float:
    """The hidden size at which the row's operators have its number of parameters, a real number.

    Raises ConfigError for a number that no width from 256 to 8192 reaches.
    """
    params = [full_network(row, width).params for width in _WIDTHS]
    if not params[0] <= row.params <= params[-1]:
        raise ConfigError(f"group {row.group!r}: {row.operators!r} with {row.params:,.0f} parameters would need a width"
                          f" outside {_WIDTHS[0]} to {_WIDTHS[-1]}")
    return float(np.exp(np.interp(np.log(row.params), np.log(params), np.log(_WIDTHS))))


def proxies(rows: Sequence[PublishedRow], *, width: int, width_factor: int, least_head_dim: int, vocab: int,
            rule: str = "params") -> list[Architecture]:
    """The network that is trained for each row.

    Args:
        rows: all rows of the groups that are compared.
        width: of the proxy of a network with the median width of its group.
        width_factor: by which heads, states and windows shrink.
        least_head_dim: they shrink no further than to this.
        vocab: of the proxies.
        rule: one of RULES.

    Raises:
        ConfigError: for a row that cannot be built at its width.
    """
    found: list[Architecture | None] = [None] * len(rows)
    for places in groups_of(rows).values():
        widths = {place: full_width(rows[place]) if rule == "params" else 1.0 for place in places}
        middle = statistics.median(widths.values())
        for place in places:
            small = max(_STEP, round(width * widths[place] / middle / _STEP) * _STEP)
            try:
                scaled = full_network(rows[place], small * width_factor).scaled(width_factor, least_head_dim)
                found[place] = Architecture(hidden=small, operators=scaled.operators, vocab=vocab)
            except FlashnasError as error:
                raise ConfigError(f"group {rows[place].group!r}: {rows[place].operators!r} cannot be built at width"
                                  f" {small}: {error}") from None
    return [architecture for architecture in found if architecture is not None]
