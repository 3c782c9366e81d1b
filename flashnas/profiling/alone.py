"""Operators timed alone, one call after the other of several copies with weights and states of
their own.

This is for CUDA graphs, which have no clock inside. The copies together are larger than any cache:
a hot loop over one operator would keep its weights in the cache and misrank operators, whereas a
deployed model reads every weight from memory at each step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.memory import operator_bytes
from flashnas.latency.row_requests import RowRequest
from flashnas.network.model import Block
from flashnas.operators import OperatorSpec
from flashnas.operators.parts.norms import RMSNorm
from flashnas.profiling.device_timing import Measurement, Timer
from flashnas.profiling.platforms import BEYOND_CACHE_BYTES
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import (
    Plan,
    at_once,
    block_step,
    build_block,
    built_on,
    deployed,
    pieces,
    timed,
    too_large,
    within_memory,
)

MIN_COPIES = 2
Note = Callable[[RowRequest, str], None]


def measure_alone(
    items: Sequence[RowRequest],
    specs: dict[str, OperatorSpec],
    setup: Setup,
    timer: Timer,
    copies_at_most: int,
    note: Note = lambda *_: None,
) -> dict[RowRequest, Measurement]:
    """Time each request. specs: the operators by their name in the requests. copies_at_most: as
    many copies of an operator as a model of the space has operators. note: receives a request and a
    line for what does not fit into memory, which is left out, and for what no graph can hold, which
    is timed in the mode eager."""
    rows = {}
    copies = _Copies(copies_at_most)

    def measure(item: RowRequest) -> Measurement:
        calls = list(_calls(item, specs, setup, copies))
        return timed(calls, setup, timer, functools.partial(note, item))

    with setup.running():
        for item in items:
            copies.keep_for(item)
            try:
                rows[item] = within_memory(functools.partial(measure, item), setup)
            except DeviceMemoryError as error:
                copies.forget()
                note(item, f"left out: {error}")
    return rows


class _Copies:
    """The blocks of one operator at one width, for all lengths, phases and batches."""

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self._blocks: list[Block] = []
        self._owner: tuple[str, int] | None = None

    @property
    def bytes(self) -> int:
        """Of their weights."""
        return sum(weight.nbytes for block in self._blocks for weight in block.parameters())

    def keep_for(self, item: RowRequest) -> None:
        """Free them if they are of another operator."""
        if self._owner != (item.operator, item.hidden):
            self.forget()
        self._owner = item.operator, item.hidden

    def forget(self) -> None:
        self._blocks.clear()

    def of(self, spec: OperatorSpec, hidden: int, number: int, setup: Setup) -> list[Block]:
        """So many; builds those that are missing, and frees those that are too many."""
        del self._blocks[number:]
        while len(self._blocks) < number:
            with built_on(setup):
                block = build_block(spec, hidden, setup)
            self._blocks.append(deployed(block, setup))
        return self._blocks


def _calls(
    item: RowRequest, specs: dict[str, OperatorSpec], setup: Setup, copies: _Copies
) -> Iterator[Callable[[], object]]:
    device, dtype, batch = setup.device, setup.torch_dtype, item.batch
    plan = (
        pieces(batch, item.length, setup.platform.piece_tokens) if item.phase == "prefill" else []
    )
    tokens_at_once = at_once(plan, batch)
    if item.operator in ("embedding", "head"):
        # a model has one, read once a token; copies only keep it out of the cache
        table_bytes = item.vocab * item.hidden * dtype.itemsize
        written = (
            tokens_at_once
            * dtype.itemsize
            * (item.hidden if item.operator == "embedding" else item.vocab)
        )
        for _ in range(_fitting(_number(table_bytes, copies.at_most), table_bytes, written, setup)):
            weight = torch.randn(item.vocab, item.hidden, dtype=dtype, device=device)
            norm = RMSNorm(item.hidden).to(device, dtype)
            tokens = torch.randint(item.vocab, (batch, item.length or 1), device=device)
            x = torch.randn(batch, item.hidden, dtype=dtype, device=device)
            if item.operator == "embedding":
                yield functools.partial(
                    _look_up, tokens.split(plan[0][0] if plan else batch), weight
                )
            else:
                yield functools.partial(_head, norm, weight, x)
        return
    spec = specs[item.operator]
    kept = 0 if plan else batch
    each, alive = operator_bytes(
        spec,
        item.hidden,
        batch=kept,
        context=item.length,
        at_once=tokens_at_once,
        dtype=setup.dtype_name,
    )
    number = _number(spec.params(item.hidden) * dtype.itemsize, copies.at_most)
    blocks = copies.of(spec, item.hidden, _fitting(number, each, alive, setup, copies.bytes), setup)
    most = (plan[0][0], max(plan[0][1])) if plan else (0, 0)
    read = torch.randn(
        *most, item.hidden, dtype=dtype, device=device
    )  # by all copies, as just written
    for block in blocks:
        if item.phase == "prefill":
            yield functools.partial(_read, block, read, plan)
        else:
            yield block_step(block, batch, item.length, setup)


def _head(norm: RMSNorm, weight_VD: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
    return F.linear(norm(x_BD), weight_VD).argmax(-1)


def _look_up(parts: Sequence[torch.Tensor], weight_VD: torch.Tensor) -> None:
    for tokens in parts:
        F.embedding(tokens, weight_VD)


def _read(block: Block, x_BTD: torch.Tensor, plan: Plan) -> None:
    """Prompts through a block, in the pieces of a plan."""
    for sequences, parts in plan:
        state = None
        for tokens in parts:
            part_BTD = x_BTD[:sequences, :tokens]
            _, state = block(part_BTD, state)


def _fitting(copies: int, each: int, alive: int, setup: Setup, kept: int = 0) -> int:
    """At most so many copies of `each` bytes as there is memory for beside `alive` bytes; raises
    DeviceMemoryError below MIN_COPIES. kept: bytes that the copies have already."""
    free = setup.platform.free_bytes()
    if free is None:
        return copies
    free += kept
    if (needed := MIN_COPIES * each + alive) > free:
        raise DeviceMemoryError(too_large(needed, free))
    return min(copies, int((free - alive) // max(each, 1)))


def _number(weight_bytes: int, at_most: int) -> int:
    return max(MIN_COPIES, min(at_most, math.ceil(BEYOND_CACHE_BYTES / max(weight_bytes, 1))))
