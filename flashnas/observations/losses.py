"""Observed losses, most of other people's full trainings: rows in groups that compare among
themselves, and the network that stands for a row. No torch.

Publications print operators without sizes. Attention has as many key heads as query heads, and the
width follows from the number of parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.observations.observation import Observation
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts

DATA = Path(__file__).parent / "data"
DEFAULT_VOCAB = 32_000  # of the one, tied embedding in `params`; publications rarely state theirs
DEFAULT_TOKENS = 1e11  # of a training whose length is not stated


@dataclass(frozen=True, kw_only=True)
class ObservedLoss(Observation):
    """The loss of one training.

    operators: of the network, in the notation, without a width. specs: these, parsed. group: rows
    of one group were trained alike, and compare. params: with those of one embedding matrix of
    `vocab` words; a vocab of 0: counted without it. active: of them those that a token uses,
    where the publication states it; the width then follows from it, by the `dense_twin`. hidden:
    0 where it is not known. nats: loss per token, up to a constant of the group. tokens: of the
    training. level: groups of one level were trained alike but for their size, and compare, too.
    network: where it is known in full, as of one's own searches. qk_norm: `unknown` where the
    publication does not say whether its attention normalises queries and keys.

    Example:
        >>> import flashnas as fn
        >>> pure = fn.Architecture.parse("1024: 12x(m2 f)")
        >>> hybrid = fn.Architecture.parse("1024: 2x(5x(m2 f) a f)")
        >>> mine = [fn.ObservedLoss.of(network, nats=nats, tokens=2e10, group="mine")
        ...         for network, nats in ((pure, 2.91), (hybrid, 2.88))]
        >>> difference, sd = fn.loss_model(mine).predict_networks([pure, hybrid], "100B").difference(1, 0)
        >>> difference < 0 < sd
        True
    """

    operators: str
    group: str
    specs: tuple[OperatorSpec, ...]
    params: float
    nats: float
    level: str = ""
    active: float = 0.0
    tokens: float = DEFAULT_TOKENS
    hidden: int = 0
    vocab: int = DEFAULT_VOCAB
    table: str = ""
    note: str = ""
    network: Architecture | None = None
    qk_norm: str = ""

    @classmethod
    def of(
        cls,
        network: Architecture,
        *,
        nats: float,
        tokens: float,
        group: str,
        source: str = "own",
        noise: float | None = None,
    ) -> Self:
        """The training of a network that is known in full.

        Args:
            network: as it was trained.
            nats: its loss per token.
            tokens: of the training.
            group: of the trainings that were alike; one that is alone in its group says nothing.
            noise: standard deviation between seeds, in nats; None: the usual one.
        """
        return cls(
            operators=" ".join(map(str, network.operators)),
            specs=network.operators,
            params=network.params,
            nats=nats,
            tokens=tokens,
            group=group,
            source=source,
            noise=noise,
            hidden=network.hidden,
            vocab=network.vocab,
            network=network,
        )

    @property
    def named(self) -> str:
        """The row in a message: its place, or its group where it was not read from a file."""
        return f"{self.place or f'group {self.group!r}'}: {self.operators!r}"


# -- groups ----------------------------------------------------------------------------------------


def groups_of(rows: Sequence[ObservedLoss]) -> dict[str, list[int]]:
    """The indices of the rows of each group, groups in the order of their first row."""
    by_group: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_group.setdefault(row.group, []).append(index)
    return by_group


def pairs_of_nested_groups(rows: Sequence[ObservedLoss]) -> list[tuple[str, str]]:
    """(smaller, larger) for each two groups of which the larger repeats all rows of the smaller."""
    contents = {
        group: {(rows[index].source, rows[index].operators, rows[index].nats) for index in members}
        for group, members in groups_of(rows).items()
    }
    return [
        (small, large)
        for small, large in itertools.permutations(contents, 2)
        if contents[small] < contents[large]
    ]


def groups_without_repeats(rows: Sequence[ObservedLoss]) -> dict[str, list[int]]:
    """`groups_of`, without the larger ones of nested groups."""
    larger = {large for _, large in pairs_of_nested_groups(rows)}
    return {name: members for name, members in groups_of(rows).items() if name not in larger}


# -- the networks of rows --------------------------------------------------------------------------

_WIDTHS = tuple(range(256, 8193, 256))


def nearest_width(width: float) -> int:
    """The width at which a network of a width that is a real number is built."""
    return max(_WIDTHS[0], round(width / _WIDTHS[0]) * _WIDTHS[0])


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


def normed(spec: OperatorSpec) -> bool:
    """Whether an operator is attention with normalised queries and keys."""
    return isinstance(spec, Attention) and spec.qk_norm


def qk_norm_of(row: ObservedLoss) -> str:
    """Whether the attention of a row normalises queries and keys: yes, no or unknown; empty without
    attention."""
    attention = [spec for spec in row.specs if isinstance(spec, Attention)]
    if not attention:
        return ""
    return row.qk_norm or ("yes" if any(map(normed, attention)) else "no")


def dense_twin(row: ObservedLoss) -> ObservedLoss:
    """The row without experts: of its active size, with `f` in place of each mixture. Other rows stay
    as they are."""
    if not row.active:
        return row
    specs = tuple(FeedForward() if isinstance(s, MixtureOfExperts) else s for s in row.specs)
    return dataclasses.replace(row, specs=specs, params=row.active, active=0.0)


def full_network(row: ObservedLoss, hidden: int) -> Architecture:
    """The row's network at a width."""
    return Architecture(
        hidden=hidden, operators=as_published(row.specs, hidden), vocab=max(2, row.vocab)
    )


@functools.lru_cache(maxsize=1024)
def full_width(row: ObservedLoss) -> float:
    """The hidden size that is stated, or, as a real number, at which the operators have the row's
    parameters.

    Raises ConfigError for a number that no width from 256 to 8192 reaches.
    """
    if row.hidden:
        return float(row.hidden)
    row, sizes, reason = dense_twin(row), dict[int, float](), ""
    for width in _WIDTHS:
        try:
            network = full_network(row, width)
        except FlashnasError as error:
            reason = reason or str(error)
        else:
            sizes[width] = network.params - (0 if row.vocab else network.vocab * width)
    widths, params = list(sizes), list(sizes.values())
    if not widths:
        raise ConfigError(f"{row.named} fits no width from {_WIDTHS[0]} to {_WIDTHS[-1]}: {reason}")
    if not params[0] <= row.params <= params[-1]:
        raise ConfigError(
            f"{row.named}: params must be from {params[0]:,} to {params[-1]:,}, which it has"
            f" at widths {widths[0]} to {widths[-1]}; got {row.params:,.0f}"
        )
    return float(np.exp(np.interp(np.log(row.params), np.log(params), np.log(widths))))
