"""Operators timed alone: one call after the other of several copies with weights and states of
their own.

This is for CUDA graphs, which have no clock inside. The copies together are larger than any cache:
a hot loop over one operator would keep its weights in the cache and misrank operators, whereas a
deployed model reads every weight from memory at each step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from flashnas.architecture import parse_operators
from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.memory import operator_bytes
from flashnas.latency.row_requests import RowRequest
from flashnas.network.model import Block
from flashnas.operators.parts.norms import RMSNorm
from flashnas.profiling.device_timing import Call, Measurement, Results
from flashnas.profiling.platforms import BEYOND_CACHE_BYTES
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import block_step, build_block, deployed, pieces

MIN_COPIES = 2


def measure_alone(items: Sequence[RowRequest], setup: Setup, max_copies: int) -> Results:
    """Time requests of one operator at one width, whose copies serve all lengths, phases and
    batches.

    Args:
        max_copies: as many copies of an operator as a model of the space has operators.
    """
    results: Results = {}
    blocks: list[Block] = []

    def measure(item: RowRequest) -> Measurement:
        return setup.timed(_calls(item, blocks, max_copies, setup), launch=False)

    for item in items:
        try:
            results[item] = setup.run(functools.partial(measure, item))
        except DeviceMemoryError as error:
            blocks.clear()
            results[item] = error.with_traceback(None)  # which would keep the blocks
    return results


def _calls(item: RowRequest, blocks: list[Block], max_copies: int, setup: Setup) -> list[Call]:
    """A call for each copy; blocks: the copies so far, to which missing ones are added and from
    which those without room are removed."""
    prefill, batch, itemsize = item.phase == "prefill", item.batch, setup.torch_dtype.itemsize
    piece_tokens = setup.platform.piece_tokens
    at_once = min(batch * item.length, piece_tokens) if prefill else batch
    if item.operator in ("embedding", "head"):
        # a model has one, read once a token; copies only keep it out of the cache
        call = _embedding if item.operator == "embedding" else _head
        table_bytes = item.vocab * item.hidden * itemsize
        written = item.hidden if item.operator == "embedding" else item.vocab
        alive = at_once * itemsize * written
        count = _count(table_bytes, table_bytes, alive, max_copies, setup)
        return [call(item, setup) for _ in range(count)]
    (spec,) = parse_operators(item.operator)
    bytes_of_one, alive = operator_bytes(
        spec,
        item.hidden,
        batch=0 if prefill else batch,
        context=item.length,
        at_once=at_once,
        dtype=setup.dtype_name,
    )
    kept = sum(weight.nbytes for block in blocks for weight in block.parameters())
    weight_bytes = spec.params(item.hidden) * itemsize
    count = _count(weight_bytes, bytes_of_one, alive, max_copies, setup, kept)
    del blocks[count:]
    while len(blocks) < count:
        blocks.append(deployed(lambda: build_block(spec, item.hidden, setup), setup))
    if not prefill:
        return [block_step(block, batch, item.length) for block in blocks]
    shapes = [
        [part_BT.shape for part_BT in parts]
        for parts in pieces(torch.empty(batch, item.length, device="meta"), piece_tokens)
    ]
    # read by all copies, as just written
    x_BTD = _random(*shapes[0][0], item.hidden, setup=setup)
    return [functools.partial(_read, block, x_BTD, shapes) for block in blocks]


def _count(
    weight_bytes: int, bytes_of_one: int, alive: int, max_copies: int, setup: Setup, kept: int = 0
) -> int:
    """As many copies as exceed any cache, at most `max_copies`, and at most as many as fit beside
    `alive` bytes; raises DeviceMemoryError below MIN_COPIES. kept: bytes of copies that exist."""
    setup.platform.check_memory(MIN_COPIES * bytes_of_one + alive, kept=kept)
    wanted = min(max_copies, math.ceil(BEYOND_CACHE_BYTES / max(weight_bytes, 1)))
    room = setup.platform.free_bytes() + kept - alive
    return min(max(MIN_COPIES, wanted), room // max(bytes_of_one, 1))


def _random(*shape: int, setup: Setup) -> torch.Tensor:
    return torch.randn(*shape, dtype=setup.torch_dtype, device=setup.device)


def _embedding(item: RowRequest, setup: Setup) -> Call:
    weight_VD = _random(item.vocab, item.hidden, setup=setup)
    tokens_BT = torch.randint(item.vocab, (item.batch, item.length or 1), device=setup.device)
    prompts = pieces(tokens_BT, setup.platform.piece_tokens)

    def look_up() -> None:
        for parts in prompts:
            for part_BT in parts:
                F.embedding(part_BT, weight_VD)

    return look_up


def _head(item: RowRequest, setup: Setup) -> Call:
    weight_VD = _random(item.vocab, item.hidden, setup=setup)
    norm = RMSNorm(item.hidden).to(setup.device, setup.torch_dtype)
    x_BD = _random(item.batch, item.hidden, setup=setup)
    return lambda: F.linear(norm(x_BD), weight_VD).argmax(-1)


def _read(block: Block, x_BTD: torch.Tensor, shapes: Sequence[Sequence[torch.Size]]) -> None:
    """Prompts through a block, in pieces of these shapes."""
    for parts in shapes:
        state = None
        for sequences, tokens in parts:
            _, state = block(x_BTD[:sequences, :tokens], state)
