"""The memory that networks need for a workload, and the largest batch that fits a device.

`memory_gb` is what an engine allocates: weights; caches of all sequences after all tokens, in pages as
vLLM has them; activations. Weights are exact. All pages of a network have one size: that of BLOCK tokens of
an attention layer, or of more, until the largest recurrent state (float32) fits one, too. A layer of
attention takes as many pages as hold its tokens (a window caps them), a recurrent one takes one. Activations
are a rule, within a factor of 2 of what the torch models here allocate.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
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

# Share of the memory that a batch may fill; 0.9 is the default of vLLM and TensorRT-LLM.
USABLE_SHARE = 0.9
BLOCK = 16  # tokens, of which the tokens of a page are a multiple
POWERS = 10 ** np.arange(19)

# Engines read a long prompt, or the prompts of a large batch, in pieces of at most this many tokens
# (8192 is the default of vLLM and TensorRT-LLM). Only one piece has activations at a time.
PREFILL_PIECE_TOKENS = 8192


@dataclass(frozen=True)
class MemorySizes:
    """Bytes of each network [N]."""

    weights: np.ndarray
    per_sequence: np.ndarray  # pages of caches, and logits
    per_token: np.ndarray  # while it is processed
    tokens: int  # read at once per sequence

    def total(
        self, batch: int | np.ndarray, piece_tokens: int = PREFILL_PIECE_TOKENS
    ) -> np.ndarray:
        at_once = np.minimum(batch * self.tokens, np.maximum(piece_tokens, batch))
        return self.weights + batch * self.per_sequence + at_once * self.per_token

    def most(self, usable: float) -> np.ndarray:
        """The largest batch with total(batch) <= usable; 0 if none."""
        free = usable - self.weights
        whole = free // (self.per_sequence + self.tokens * self.per_token)
        in_pieces = np.minimum(
            (free - PREFILL_PIECE_TOKENS * self.per_token) // self.per_sequence,
            free // (self.per_sequence + self.per_token),
        )
        return np.maximum(np.maximum(whole, in_pieces), 0).astype(int)


@functools.lru_cache(maxsize=65536)
def _operator_sizes(
    spec: OperatorSpec, hidden: int, context: int, dtype_bytes: int, cache_type: str = ""
) -> tuple[float, float, float, int, int]:
    """-> bytes of a state, cache bytes of a token, tokens that are kept of a sequence, bytes per token
    while the operator reads a prompt, `matrix_numbers`."""
    calls = [call for call in spec.kernels(hidden, "prefill") if not call.fusable]
    alive = sum(
        dtype_bytes * call.kind.written(call) + call.kind.workspace_bytes(call) for call in calls
    )

    def cache(tokens: int) -> float:
        one, two = (spec.cache_bytes(hidden, tokens, size) for size in (1, 2))
        return one + (CACHE_BYTES.get(cache_type, dtype_bytes) - 1) * (two - one)

    state = cache(0)
    of_token = cache(1) - state
    kept = (cache(context) - state) / of_token if of_token else 0.0
    return state, of_token, kept, alive, matrix_numbers(spec, hidden)


def paged_bytes(
    networks: Networks, states: np.ndarray, of_token: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Of the pages of one sequence [N]. Of each of `networks.pairs`: bytes of its state and of a token,
    and tokens that it keeps."""
    largest, widest = networks.largest_of(states), networks.largest_of(of_token)
    block = BLOCK * np.ceil(largest / (BLOCK * np.maximum(widest, 1)))
    block = np.maximum(block, BLOCK)
    pages = networks.totals_of((states > 0) & (of_token == 0))
    for tokens in np.unique(kept[kept > 0]):
        pages += networks.totals_of(kept == tokens) * np.ceil(tokens / block)
    return pages * np.where(widest > 0, block * widest, largest)


def matrix_numbers(spec: OperatorSpec, hidden: int) -> int:
    """Parameters of an operator that are matrices of products, which may have a type of their
    own.
    """
    return sum(
        call.kind.weights(call) for call in spec.kernels(hidden, "decode") if call.kind.weights
    )


def memory_sizes(
    networks: Networks, workload: Workload, dtype: str, cache_type: str = ""
) -> MemorySizes:
    """Of what takes memory of each network: weights, pages after all tokens, activations.

    Args:
        cache_type: of keys and values, one of CACHE_BYTES ("": dtype).

    Activations: for each token that is processed at once (a piece of the prompts, or one token of
    each sequence) the residual stream and what the kernels of that operator write that writes most,
    with the workspace of its chunked kernel; and float32 logits of one token per sequence.
    """
    dtype_bytes = DTYPE_BYTES[dtype]
    context = workload.context + networks.meta_tokens
    of_pairs = [
        _operator_sizes(spec, hidden, context, dtype_bytes, cache_type)
        for spec, hidden in networks.pairs
    ]
    states, of_token, kept, alive, matrices = np.array(of_pairs, float).reshape(-1, 5).T
    others = WEIGHT_BYTES[OTHER_WEIGHTS.get(dtype, dtype)]
    narrower = others - WEIGHT_BYTES[dtype]
    in_matrices = networks.totals_of(matrices) if narrower else 0
    return MemorySizes(
        np.ceil(networks.params * others - in_matrices * narrower),
        paged_bytes(networks, states, of_token, kept) + 4 * networks.vocab,
        networks.hidden * dtype_bytes + networks.largest_of(alive),
        max(workload.prompt_tokens + networks.meta_tokens, 1),
    )


def memory_bytes(
    architecture: Architecture,
    workload: Workload,
    batch: int,
    dtype: str,
    piece_tokens: int = PREFILL_PIECE_TOKENS,
    cache_type: str = "",
) -> int:
    """Of one network. piece_tokens: of the prompts that are processed at once, at most."""
    sizes = memory_sizes(Networks.of([architecture]), workload, dtype, cache_type)
    return int(sizes.total(batch, piece_tokens)[0])


def check_fits(
    architecture: Architecture, workload: Workload, device: Device, dtype: str, cache_type: str = ""
) -> None:
    """Raise BudgetError if the batch of the workload needs more than USABLE_SHARE of the memory."""
    if workload.batch == "max":
        return
    needed = memory_bytes(architecture, workload, workload.batch, dtype, cache_type=cache_type)
    if needed > device.memory_bytes * USABLE_SHARE:
        largest = largest_batch(architecture, workload, device, dtype, cache_type)
        raise BudgetError(
            f"memory_gb {needed / 1e9:.1f} of batch {workload.batch} of {workload.name} is more"
            f" than {USABLE_SHARE:.0%} of the {device.memory_bytes / 1e9:.1f} GB of {device.name};"
            f" the largest batch is {largest}"
        )


def largest_batch(
    architecture: Architecture, workload: Workload, device: Device, dtype: str, cache_type: str = ""
) -> int:
    """Of one network; raises BudgetError if not even 1 fits."""
    sizes = memory_sizes(Networks.of([architecture]), workload, dtype, cache_type)
    if batch := int(largest_batches(sizes, device)[0]):
        return batch
    usable = device.memory_bytes * USABLE_SHARE
    raise BudgetError(
        f"{architecture.notation[:60]} does not fit {USABLE_SHARE:.0%} of the memory of"
        f" {device.name} ({usable / 1e9:.1f} GB) with batch 1 of {workload.name}: it needs"
        f" {sizes.total(1)[0] / 1e9:.1f} GB"
    )


def largest_batches(sizes: MemorySizes, device: Device) -> np.ndarray:
    """The largest batches that fill at most USABLE_SHARE of the memory [N], rounded down to two
    digits (487 -> 480), as batches are configured in practice; 0 where not even 1 fits."""
    most = sizes.most(device.memory_bytes * USABLE_SHARE)
    step = POWERS[np.maximum(np.searchsorted(POWERS, most, side="right") - 2, 0)]
    return most // step * step
