"""Device memory of a request: weights, caches at its end, and a simple bound on activations."""

from __future__ import annotations

import functools

from flashnas.architecture import Architecture, OperatorSpec
from flashnas.errors import BudgetError
from flashnas.latency.schema import Device
from flashnas.latency.workload import DTYPE_BYTES, Workload

# Engines read a long prompt, or that of a large batch, in pieces of at most so many tokens (vLLM's and TensorRT-LLM's
# default is 8192); only one piece has activations at a time.
PREFILL_PIECE_TOKENS = 8192
# Share of the memory that a batch of "max" may fill; vLLM's and TensorRT-LLM's default is 0.9.
USABLE_SHARE = 0.9


@functools.lru_cache(maxsize=65536)
def _operator_sizes(spec: OperatorSpec, hidden: int, context: int, dtype_bytes: int) -> tuple[int, int, int]:
    """-> parameters, cache bytes per sequence, values per token that are alive at its widest kernel."""
    widest = max((call["n"] + call["k"] for call in spec.kernels(hidden, "prefill") if call.kind == "gemm"), default=0)
    return spec.params(hidden), spec.cache_bytes(hidden, context, dtype_bytes), widest


def _sizes(architecture: Architecture, context: int, dtype_bytes: int) -> tuple[int, int, int]:
    hidden, a = architecture.hidden, architecture
    known = {spec: _operator_sizes(spec, hidden, context, dtype_bytes) for spec in set(a.operators)}
    params = a.vocab * hidden * (1 if a.tied else 2) + a.meta_tokens * hidden + hidden
    cache = 0
    for spec in a.operators:
        params, cache = params + known[spec][0], cache + known[spec][1]
    return params, cache, max(sizes[2] for sizes in known.values())


def memory_bytes(architecture: Architecture, workload: Workload, batch: int, dtype_bytes: int) -> float:
    """Weights + caches after all tokens + activations.

    Activations: for each token that is processed at once (a piece of the prompts, or one token of each sequence) the
    residual stream twice and the widest kernel's input and output; and float32 logits of one token per sequence.
    """
    fixed, per_sequence = _memory_parts(architecture, workload, batch, dtype_bytes)
    return fixed + batch * per_sequence


def _memory_parts(architecture: Architecture, workload: Workload, batch: int,
                  dtype_bytes: int) -> tuple[float, float]:
    context = workload.context + architecture.meta_tokens
    params, cache, widest = _sizes(architecture, context, dtype_bytes)
    at_once = min(batch * max(workload.prompt_tokens + architecture.meta_tokens, 1), max(PREFILL_PIECE_TOKENS, batch))
    activations = at_once * (2 * architecture.hidden + widest) * dtype_bytes
    return params * dtype_bytes + activations, cache + 4 * architecture.vocab


def largest_batch(architecture: Architecture, workload: Workload, device: Device, dtype: str) -> int:
    """The largest batch that fills at most USABLE_SHARE of the memory; raises BudgetError if not even 1 does."""
    usable = device.memory_bytes * USABLE_SHARE
    dtype_bytes = DTYPE_BYTES[dtype]
    if memory_bytes(architecture, workload, 1, dtype_bytes) > usable:
        raise BudgetError(f"{architecture.notation[:60]} does not fit {USABLE_SHARE:.0%} of the memory of {device.name}"
                          f" ({usable / 1e9:.1f} GB) with batch 1 of {workload.name}; it needs"
                          f" {memory_bytes(architecture, workload, 1, dtype_bytes) / 1e9:.1f} GB")
    low, high = 1, 2
    while memory_bytes(architecture, workload, high, dtype_bytes) <= usable:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = memory_bytes(architecture, workload, middle, dtype_bytes) <= usable
        low, high = (middle, high) if fits else (low, middle)
    return low
