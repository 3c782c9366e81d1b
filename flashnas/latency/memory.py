"""Device memory of a request: weights, caches at its end, activations and the workspace of chunked
kernels.

Weights and caches are exact (a window caps its cache; recurrent states are float32). Activations
are a rule, within a factor of 2 of what the torch models here allocate.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.schema import Device
from flashnas.latency.workload import (
    CACHE_BYTES,
    DTYPE_BYTES,
    OTHER_WEIGHTS,
    WEIGHT_BYTES,
    Workload,
)
from flashnas.operators import OperatorSpec

# Engines read a long prompt, or the prompts of a large batch, in pieces of at most this many tokens
# (8192 is the default of vLLM and TensorRT-LLM). Only one piece has activations at a time.
PREFILL_PIECE_TOKENS = 8192
# Share of the memory that a batch of "max" may fill; 0.9 is the default of vLLM and TensorRT-LLM.
USABLE_SHARE = 0.9


@dataclass(frozen=True)
class _Sizes:
    """Bytes."""

    weights: int
    per_sequence: int  # caches and logits
    per_token: int  # while it is processed
    tokens: int  # read at once per sequence

    def total(self, batch: int, piece_tokens: int = PREFILL_PIECE_TOKENS) -> int:
        at_once = min(batch * self.tokens, max(piece_tokens, batch))
        return self.weights + batch * self.per_sequence + at_once * self.per_token

    def most(self, usable: float) -> int:
        """The largest batch with total(batch) <= usable; 0 if none."""
        without_activations = int((usable - self.weights) // self.per_sequence)
        return bisect.bisect_right(
            range(1, max(without_activations, 0) + 1), usable, key=self.total
        )


@functools.lru_cache(maxsize=65536)
def _operator_sizes(
    spec: OperatorSpec, hidden: int, context: int, dtype_bytes: int, cache_type: str = ""
) -> tuple[int, int, int]:
    """-> parameters, cache bytes per sequence, bytes per token while the operator reads a
    prompt.
    """
    calls = [call for call in spec.kernels(hidden, "prefill") if not call.fusable]
    alive = sum(
        dtype_bytes * call.kind.written(call) + call.kind.workspace_bytes(call) for call in calls
    )
    one, two = (spec.cache_bytes(hidden, context, size) for size in (1, 2))
    cache = one + (CACHE_BYTES.get(cache_type, dtype_bytes) - 1) * (two - one)
    return spec.params(hidden), math.ceil(cache), alive


@functools.lru_cache(maxsize=65536)
def matrix_numbers(spec: OperatorSpec, hidden: int) -> int:
    """Parameters of an operator that are matrices of products, which may have a type of their
    own.
    """
    return sum(
        call.kind.weights(call) for call in spec.kernels(hidden, "decode") if call.kind.weights
    )


def _sizes(a: Architecture, workload: Workload, dtype: str, cache_type: str) -> _Sizes:
    dtype_bytes = DTYPE_BYTES[dtype]
    context = workload.context + a.meta_tokens
    others = WEIGHT_BYTES[OTHER_WEIGHTS.get(dtype, dtype)]
    sizes_of = {
        spec: _operator_sizes(spec, a.hidden, context, dtype_bytes, cache_type)
        for spec in set(a.operators)
    }
    params = a.vocab * a.hidden * (1 if a.tied else 2) + a.meta_tokens * a.hidden + a.hidden
    params += sum(sizes_of[spec][0] for spec in a.operators)
    cache = sum(sizes_of[spec][1] for spec in a.operators)
    alive = max(sizes[2] for sizes in sizes_of.values())
    weight_bytes = params * others - sum(matrix_numbers(spec, a.hidden) for spec in a.operators) * (
        others - WEIGHT_BYTES[dtype]
    )
    return _Sizes(
        math.ceil(weight_bytes),
        cache + 4 * a.vocab,
        a.hidden * dtype_bytes + alive,
        max(workload.prompt_tokens + a.meta_tokens, 1),
    )


def memory_bytes(
    architecture: Architecture,
    workload: Workload,
    batch: int,
    dtype: str,
    piece_tokens: int = PREFILL_PIECE_TOKENS,
    cache_type: str = "",
) -> int:
    """Weights + caches after all tokens + activations; cache_type: of keys and values, one of
    CACHE_BYTES ("": dtype).

    Activations: for each token that is processed at once (`piece_tokens` of the prompts, or one
    token of each sequence) the residual stream and what the kernels of that operator write that
    writes most, with the workspace of its chunked kernel; and float32 logits of one token per
    sequence.
    """
    return _sizes(architecture, workload, dtype, cache_type).total(batch, piece_tokens)


def operator_bytes(
    spec: OperatorSpec,
    hidden: int,
    *,
    batch: int,
    context: int,
    at_once: int,
    dtype: str,
) -> tuple[int, int]:
    """(weights and states, activations) of one operator alone. batch: sequences whose states it
    keeps, with `context` tokens each. at_once: tokens that it takes in one call."""
    dtype_bytes = DTYPE_BYTES[dtype]
    params, cache, alive = _operator_sizes(spec.resolved(hidden), hidden, context, dtype_bytes)
    return params * dtype_bytes + batch * cache, at_once * (2 * hidden * dtype_bytes + alive)


def check_fits(
    architecture: Architecture, workload: Workload, device: Device, dtype: str, cache_type: str = ""
) -> None:
    """Raise BudgetError if the batch of the workload needs more than the device has."""
    if workload.batch == "max":
        return
    needed = memory_bytes(architecture, workload, workload.batch, dtype, cache_type=cache_type)
    if needed > device.memory_bytes:
        largest = largest_batch(architecture, workload, device, dtype, cache_type)
        raise BudgetError(
            f"memory_gb {needed / 1e9:.1f} of batch {workload.batch} of {workload.name} is more"
            f" than the {device.memory_bytes / 1e9:.1f} GB of {device.name}; the largest batch"
            f" is {largest}"
        )


def largest_batch(
    architecture: Architecture, workload: Workload, device: Device, dtype: str, cache_type: str = ""
) -> int:
    """The largest batch that fills at most USABLE_SHARE of the memory, rounded down to two digits
    (487 -> 480), as batches are configured in practice; raises BudgetError if not even 1 fits."""
    usable = device.memory_bytes * USABLE_SHARE
    sizes = _sizes(architecture, workload, dtype, cache_type)
    low = sizes.most(usable)
    if not low:
        raise BudgetError(
            f"{architecture.notation[:60]} does not fit {USABLE_SHARE:.0%} of the memory of"
            f" {device.name} ({usable / 1e9:.1f} GB) with batch 1 of {workload.name}: it needs"
            f" {sizes.total(1) / 1e9:.1f} GB"
        )
    step = 10 ** max(len(str(low)) - 2, 0)
    return low // step * step
