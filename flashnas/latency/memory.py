"""Device memory of a request: weights, caches at its end, and a simple bound on activations."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from flashnas.architecture import Architecture, OperatorSpec
from flashnas.errors import BudgetError
from flashnas.latency.schema import Device
from flashnas.latency.workload import DTYPE_BYTES, Workload

# Engines read a long prompt, or those of a large batch, in pieces of at most so many tokens (vLLM's and TensorRT-LLM's
# default is 8192); only one piece has activations at a time.
PREFILL_PIECE_TOKENS = 8192
# Share of the memory that a batch of "max" may fill; vLLM's and TensorRT-LLM's default is 0.9.
USABLE_SHARE = 0.9


@dataclass(frozen=True)
class _Sizes:
    """Bytes of the weights, of the caches and logits of one sequence, and of one token while it is processed."""

    weights: int
    per_sequence: int
    per_token: int
    tokens: int  # read at once per sequence

    def total(self, batch: int) -> int:
        at_once = min(batch * self.tokens, max(PREFILL_PIECE_TOKENS, batch))
        return self.weights + batch * self.per_sequence + at_once * self.per_token


@functools.lru_cache(maxsize=65536)
def _operator_sizes(spec: OperatorSpec, hidden: int, context: int, dtype_bytes: int) -> tuple[int, int, int]:
    """-> parameters, cache bytes per sequence, values per token that are alive at its widest kernel."""
    widest = max((call["n"] + call["k"] for call in spec.kernels(hidden, "prefill") if call.kind == "gemm"), default=0)
    return spec.params(hidden), spec.cache_bytes(hidden, context, dtype_bytes), widest


def _sizes(a: Architecture, workload: Workload, dtype_bytes: int) -> _Sizes:
    context = workload.context + a.meta_tokens
    known = {spec: _operator_sizes(spec, a.hidden, context, dtype_bytes) for spec in set(a.operators)}
    params = a.vocab * a.hidden * (1 if a.tied else 2) + a.meta_tokens * a.hidden + a.hidden
    params += sum(known[spec][0] for spec in a.operators)
    cache = sum(known[spec][1] for spec in a.operators)
    widest = max(sizes[2] for sizes in known.values())
    return _Sizes(params * dtype_bytes, cache + 4 * a.vocab, (2 * a.hidden + widest) * dtype_bytes,
                  max(workload.prompt_tokens + a.meta_tokens, 1))


def memory_bytes(architecture: Architecture, workload: Workload, batch: int, dtype_bytes: int) -> int:
    """Weights + caches after all tokens + activations.

    Activations: for each token that is processed at once (a piece of the prompts, or one token of each sequence) the
    residual stream twice and the widest product's input and output; and float32 logits of one token per sequence.
    """
    return _sizes(architecture, workload, dtype_bytes).total(batch)


def largest_batch(architecture: Architecture, workload: Workload, device: Device, dtype: str) -> int:
    """The largest batch that fills at most USABLE_SHARE of the memory, rounded down to two digits (487 -> 480), as
    batches are configured in practice; raises BudgetError if not even 1 fits."""
    usable = device.memory_bytes * USABLE_SHARE
    sizes = _sizes(architecture, workload, DTYPE_BYTES[dtype])
    if sizes.total(1) > usable:
        raise BudgetError(f"{architecture.notation[:60]} does not fit {USABLE_SHARE:.0%} of the memory of {device.name}"
                          f" ({usable / 1e9:.1f} GB) with batch 1 of {workload.name}: it needs"
                          f" {sizes.total(1) / 1e9:.1f} GB")
    low, high = 1, 2
    while sizes.total(high) <= usable:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sizes.total(middle) <= usable else (low, middle)
    step = 10 ** max(len(str(low)) - 2, 0)
    return low // step * step
