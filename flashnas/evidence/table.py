"""Networks and published rows as the model of the full loss sees them: columns of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flashnas.evidence.composition import KINDS, Mix, effective, features
from flashnas.evidence.law import Law, aspect


class Columns:
    """Fields of one length: arrays, or such columns."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    @classmethod
    def joined(cls, *parts: Self) -> Self:
        """All rows of several."""
        return cls(
            *(
                type(same[0]).joined(*same)
                if isinstance(same[0], Columns)
                else np.concatenate(same)
                for same in zip(*(vars(part).values() for part in parts), strict=True)
            )
        )

    def part(self, places: np.ndarray) -> Self:
        """The rows at these places."""
        return type(self)(
            *(
                column.part(places) if isinstance(column, Columns) else column[places]
                for column in vars(self).values()
            )
        )


@dataclass(frozen=True)
class Table(Columns):
    """Networks or rows as the model sees them.

    x [N, F]: of FEATURES and SILENT. shares [N, K]: of KINDS. ffn [N]: share of feed-forward layers
    among the operators. publication [N]: in which each is trained. short [N]: what the short
    training of an operator that no publication has adds to the mean, in nats.
    """

    x: np.ndarray
    shares: np.ndarray
    ffn: np.ndarray
    publication: np.ndarray
    short: np.ndarray

    @classmethod
    def of(
        cls,
        law: Law,
        mixes: Sequence[Mix],
        sizes_N3: Any,
        widths: Any,
        tokens: Any,
        publication: Any,
        *,
        short: Any = 0.0,
        counted: Any = None,
    ) -> Self:
        """Networks by their mixes and sizes; each argument is of shape [N], or one value for all.

        Args:
            sizes_N3: what `body_sizes` gives.
            publication: in which they are trained.
            short: as `FullLoss.short_effect`.
            counted: parameters that the law counts; None: `effective` ones.
        """
        params, active, ffn = np.array(sizes_N3, float).reshape(-1, 3).T
        counted, widths = (
            effective(params, active) if counted is None else counted,
            np.asarray(widths, float),
        )
        x = features(
            mixes,
            law=law.loss(counted, tokens, widths),
            params=params,
            active=active,
            ffn=ffn,
            aspects=aspect(counted, widths),
            tokens=tokens,
        )
        return cls(
            x,
            np.array([mix.shares for mix in mixes]).reshape(-1, len(KINDS)),
            np.array([mix.ffn_share for mix in mixes]),
            np.broadcast_to(np.array(publication, object), len(mixes)),
            np.broadcast_to(np.asarray(short, float), len(mixes)),
        )


@dataclass(frozen=True)
class Rows(Columns):
    """What the model learns from: the table, the loss of each row, and the level that it compares
    within.
    """

    table: Table
    nats: np.ndarray
    level: np.ndarray
