"""What has to be measured so that a table answers for a space: one request per row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.latency.schema import KINDS, OPERATOR_KINDS
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.operators import OperatorSpec
from flashnas.space.operator_space import OperatorSpace

MAX_BATCHES = (1, 8, 32)  # measured for a workload that asks for the largest batch


@dataclass(frozen=True, order=True)
class RowRequest:
    """One row to measure.

    Attributes:
        phase: decode or prefill.
        operator: in notation with every option, or `embedding` or `head`.
        vocab: of embedding and head; 0 for other operators.
        length: tokens: of the context (decode; 0: any), or of the prompt (prefill).
    """

    phase: str
    operator: str
    hidden: int
    vocab: int
    batch: int
    length: int

    @property
    def kind(self) -> str:
        """The kind of table row."""
        return f"operator_{self.phase}"

    def key(self) -> dict[str, Any]:
        """The key columns of the row."""
        values = self.operator, self.hidden, self.vocab, self.batch, self.length
        return dict(zip(KINDS[self.kind], values, strict=True))


def plan(space: OperatorSpace[Any], workloads: Iterable[Workload]) -> list[RowRequest]:
    """All rows that the space needs for the workloads, each once, in a fixed order."""
    meta, vocab = space.model.meta_tokens, space.model.vocab
    items: set[RowRequest] = set()
    for workload, hidden in itertools.product(workloads, space.hidden_sizes):
        batches = MAX_BATCHES if workload.batch == "max" else (int(workload.batch),)
        total = meta + workload.context
        read = meta + workload.prompt_tokens
        for batch in batches:
            items |= {
                RowRequest("decode", name, hidden, vocab, batch, 0)
                for name in ("embedding", "head")
            }
            if read:
                items.add(RowRequest("prefill", "embedding", hidden, vocab, batch, read))
            for spec in space.kinds():
                text = str(spec.resolved(hidden))
                if workload.generated_tokens:
                    lengths = contexts(spec, read + 1, total)
                    items.update(
                        RowRequest("decode", text, hidden, 0, batch, length) for length in lengths
                    )
                if read:
                    items.add(RowRequest("prefill", text, hidden, 0, batch, read))
    return sorted(items)


def contexts(spec: OperatorSpec, first: int, last: int) -> list[int]:
    """Contexts at which a decode step is measured: 0 (any) for recurrent ones, else powers of 4 and
    the ends."""
    window = getattr(spec, "window_tokens", None)
    if window is None:
        return [0]
    inner = [4**power for power in range(3, 12) if first < 4**power < last]
    edge = [window] if first < window < last else []
    return sorted({first, last, *inner, *edge})


def missing(
    items: Sequence[RowRequest], table: LatencyTable | None, *, stack: str, mode: str, dtype: str
) -> list[RowRequest]:
    """The requests that no row of this stack, mode and dtype in a table answers."""
    frames = {} if table is None else table.frames
    answered: set[tuple[Any, ...]] = set()
    for kind in frames.keys() & OPERATOR_KINDS:
        rows = frames[kind]
        rows = rows[(rows["stack"] == stack) & (rows["mode"] == mode) & (rows["dtype"] == dtype)]
        answered.update((kind, *row) for row in rows[list(KINDS[kind])].itertuples(index=False))
    return [item for item in items if (item.kind, *item.key().values()) not in answered]


@dataclass(frozen=True, order=True)
class RowGroup:
    """Requests that are timed together: of one phase, width and batch inside one model, or of one
    operator and width, with the phase "" and the batch 0."""

    phase: str
    hidden: int
    batch: int
    items: tuple[RowRequest, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths at which the model is run; decode requests of length 0 are timed at each of
        them.
        """
        return tuple(sorted({item.length for item in self.items if item.length})) or (1,)


def groups(items: Iterable[RowRequest], *, alone: bool = False) -> list[RowGroup]:
    """The requests by phase, width and batch, in a fixed order; alone: by width and operator, whose
    copies then serve all phases, batches and lengths."""
    members: dict[tuple[str, int, int, str], list[RowRequest]] = {}
    for item in items:
        key = (
            ("", item.hidden, 0, item.operator)
            if alone
            else (item.phase, item.hidden, item.batch, "")
        )
        members.setdefault(key, []).append(item)
    return [RowGroup(*key[:3], tuple(rows)) for key, rows in sorted(members.items())]
