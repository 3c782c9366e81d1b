"""Operators timed alone, each repeat on the next of several copies of its weights and state.

This is for CUDA graphs, which have no clock inside. The copies together are larger than any cache. A hot loop over one
operator would keep its weights in the cache and misrank operators, whereas a deployed model reads every weight from
memory at each step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from flashnas.operators import OperatorSpec
from flashnas.operators.parts.norms import RMSNorm
from flashnas.profiling.device_timing import Measurement, Timer
from flashnas.profiling.platforms import BEYOND_CACHE_BYTES
from flashnas.profiling.row_requests import RowRequest
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import build_block, compile_block, filled_state

LEAST_COPIES = 2


def measure_alone(items: Sequence[RowRequest], specs: dict[str, OperatorSpec], setup: Setup, timer: Timer,
                  copies_at_most: int) -> dict[RowRequest, Measurement]:
    """Time each request.

    Args:
        items: the rows to measure.
        specs: the operators by their name in the requests.
        setup: how this machine runs them.
        timer: the clock around a call.
        copies_at_most: as many copies of an operator as a model of the space has operators.
    """
    with setup.running():
        return {item: timer.measure(list(_calls(item, specs, setup, copies_at_most)), setup.effort) for item in items}


def _calls(item: RowRequest, specs: dict[str, OperatorSpec], setup: Setup,
           copies_at_most: int) -> Iterator[Callable[[], object]]:
    device, dtype, batch = setup.device, setup.torch_dtype, item.batch
    if item.operator in ("embedding", "head"):
        # a model has one, read once a token; copies only keep it out of the cache
        for _ in range(_copies(item.vocab * item.hidden * dtype.itemsize, copies_at_most)):
            weight = torch.randn(item.vocab, item.hidden, dtype=dtype, device=device)
            norm = RMSNorm(item.hidden).to(device, dtype)
            tokens = torch.randint(item.vocab, (batch, item.length or 1), device=device)
            x = torch.randn(batch, item.hidden, dtype=dtype, device=device)
            if item.operator == "embedding":
                yield functools.partial(F.embedding, tokens, weight)
            else:
                yield functools.partial(_head, norm, weight, x)
        return
    spec = specs[item.operator]
    first = build_block(spec, item.hidden, setup)
    for _ in range(_copies(sum(p.numel() for p in first.parameters()) * dtype.itemsize, copies_at_most)):
        block = build_block(spec, item.hidden, setup).to(device, dtype).eval()
        if setup.mode_name == "compiled":
            compile_block(block)
        if item.phase == "prefill":
            yield functools.partial(block, torch.randn(batch, item.length, item.hidden, dtype=dtype, device=device))
        else:
            x = torch.randn(batch, item.hidden, dtype=dtype, device=device)
            yield functools.partial(block.step, x, filled_state(block, batch, item.length, dtype, device))


def _head(norm: RMSNorm, weight_VD: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
    return F.linear(norm(x_BD), weight_VD).argmax(-1)


def _copies(weight_bytes: int, at_most: int) -> int:
    return max(LEAST_COPIES, min(at_most, math.ceil(BEYOND_CACHE_BYTES / max(weight_bytes, 1))))
