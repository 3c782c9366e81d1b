"""What has to be measured so that a table answers for a space: one request per row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flashnas.latency.schema import KINDS
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
    requests: set[RowRequest] = set()
    for workload, hidden in itertools.product(workloads, space.hidden_sizes):
        total = meta + workload.context
        read = meta + workload.prompt_tokens
        for batch in batches(workload):
            requests |= {
                RowRequest("decode", name, hidden, vocab, batch, 0)
                for name in ("embedding", "head")
            }
            if read:
                requests.add(RowRequest("prefill", "embedding", hidden, vocab, batch, read))
            for spec in space.kinds_at(hidden):
                text = str(spec.resolved(hidden))
                if workload.generated_tokens:
                    requests.update(
                        RowRequest("decode", text, hidden, 0, batch, length)
                        for length in contexts(spec, hidden, read + 1, total)
                    )
                if read:
                    requests.add(RowRequest("prefill", text, hidden, 0, batch, read))
    return sorted(requests)


def batches(workload: Workload) -> tuple[int, ...]:
    """The batches that are measured for a workload."""
    return MAX_BATCHES if workload.batch == "max" else (workload.batch,)


def contexts(spec: OperatorSpec, hidden: int, first: int, last: int) -> list[int]:
    """Contexts at which a decode step is measured: 0 (any) where no kernel depends on it, else
    powers of 4 and the ends."""
    if not spec.looks_back(hidden):
        return [0]
    window = spec.window_tokens
    inner = [4**power for power in range(3, 12) if first < 4**power < last]
    edge = [window] if first < window < last else []
    return sorted({first, last, *inner, *edge})
