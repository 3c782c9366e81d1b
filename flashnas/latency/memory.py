"""The memory that networks need for a workload, and the largest batch that fits a device.

`memory_gb` is what an engine allocates: weights; caches of all sequences after all tokens, in pages as
vLLM has them; activations. Weights are exact. All pages of a network have one size: that of BLOCK tokens of
an attention layer, or of more, until the largest recurrent state fits one, too. A layer of attention takes
as many pages as hold its tokens (of a window those that it may reach into), a recurrent one takes one.
Layers of one sort form groups of as many layers each; what a group lacks is allocated, too. Activations are
a rule, within a factor of 2 of what the torch models here allocate. `experiments/serving` holds
pages and reused tokens against vLLM.
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
from flashnas.operators.kernel_kinds import STATE_BYTES

# Share of the memory that a batch may fill; 0.9 is the default of vLLM and TensorRT-LLM.
USABLE_SHARE = 0.9
BLOCK = 16  # tokens, of which the tokens of a page are a multiple
# up to which multiple of the rarest sort the most frequent one sets the layers of a group
ALIKE_LAYERS = 1.5
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
    block_tokens: np.ndarray | int = BLOCK  # of a page; 0 of a network without attention
    reused_tokens: np.ndarray | int = 0  # which a second turn need not read

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
    spec: OperatorSpec, hidden: int, dtype_bytes: int, kv_dtype: str, state_bytes: float
) -> tuple[float, float, int, int, int]:
    """-> bytes of a state, cache bytes of a token, tokens of its window (0: all), bytes per token while
    the operator reads a prompt, `matrix_numbers`."""
    alive = sum(
        dtype_bytes * call.kind.written(call) + call.kind.workspace_bytes(call)
        for call in spec.kernels(hidden, "prefill")
    )
    empty, one = (spec.cache_bytes(hidden, tokens, 1) for tokens in (0, 1))
    convolutions = spec.cache_bytes(hidden, 0, 2) - empty
    state = convolutions * dtype_bytes + (empty - convolutions) * state_bytes / STATE_BYTES
    of_token = (one - empty) * CACHE_BYTES.get(kv_dtype, dtype_bytes)
    return state, of_token, spec.window_tokens, alive, matrix_numbers(spec, hidden)


def paged(
    networks: Networks,
    states: np.ndarray,
    of_token: np.ndarray,
    windows: np.ndarray,
    prompt: int,
    context: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens of a page, tokens that a second turn reuses, bytes of the pages of one sequence) of each
    network [N]. Of each of `networks.pairs`: bytes of its state and of a token, and its window.

    Whole pages are reused. States and windows are kept where the last whole page of the prompt ends, as
    vLLM 0.32 does by default: nothing is reused of what was generated after it. Keys and values of full
    attention are kept of all tokens but the last."""
    largest, widest = networks.largest_of(states), networks.largest_of(of_token)
    block = BLOCK * np.maximum(np.ceil(largest / (BLOCK * np.maximum(widest, 1))), 1)
    whole = np.ceil(context / block)
    layers, held = [networks.totals_of((states > 0) & (of_token == 0))], [np.ones(len(networks))]
    for window in np.unique(windows[of_token > 0]):
        layers.append(networks.totals_of((of_token > 0) & (windows == window)))
        reached = np.ceil((window - 1) / block) + 1  # it need not begin with a page
        held.append(np.minimum(whole, reached) if window else whole)
    most, least = np.max(layers, axis=0), np.min(np.where(layers, layers, np.inf), axis=0)
    group = np.maximum(np.where(most < ALIKE_LAYERS * least, most, least), 1)
    pages = sum(group * np.ceil(n / group) * each for n, each in zip(layers, held, strict=True))
    kept = np.where(networks.totals_of((states > 0) | (windows > 0)) > 0, prompt, context) - 1
    reused = np.where(widest > 0, np.maximum(kept, 0) // block * block, 0)
    bytes_each = np.where(widest > 0, block * widest, largest)
    return np.where(widest > 0, block, 0), reused, pages * bytes_each


def matrix_numbers(spec: OperatorSpec, hidden: int) -> int:
    """Parameters of an operator that are matrices of products, which may have a type of their
    own.
    """
    return sum(
        call.kind.weights(call) for call in spec.kernels(hidden, "decode") if call.kind.weights
    )


def memory_sizes(networks: Networks, workload: Workload, dtype: str) -> MemorySizes:
    """Of what takes memory of each network: weights, pages after all tokens, activations.

    Activations: for each token that is processed at once (a piece of the prompts, or one token of
    each sequence) the residual stream and what the kernels of that operator write that writes most,
    with the workspace of its chunked kernel; and float32 logits of one token per sequence.
    """
    dtype_bytes = DTYPE_BYTES[dtype]
    of_states = DTYPE_BYTES.get(workload.state_dtype, STATE_BYTES)
    of_pairs = [
        _operator_sizes(spec, hidden, dtype_bytes, workload.kv_dtype, of_states)
        for spec, hidden in networks.pairs
    ]
    states, of_token, windows, alive, matrices = np.array(of_pairs, float).reshape(-1, 5).T
    others = WEIGHT_BYTES[OTHER_WEIGHTS.get(dtype, dtype)]
    narrower = others - WEIGHT_BYTES[dtype]
    in_matrices = networks.totals_of(matrices) if narrower else 0
    prompt, context = (
        tokens + networks.meta_tokens for tokens in (workload.prompt_tokens, workload.context)
    )
    block, reused, of_pages = paged(networks, states, of_token, windows, prompt, context)
    return MemorySizes(
        np.ceil(networks.params * others - in_matrices * narrower),
        of_pages + 4 * networks.vocab,
        networks.hidden * dtype_bytes + networks.largest_of(alive),
        max(prompt, 1),
        block,
        reused,
    )


def memory_bytes(
    architecture: Architecture,
    workload: Workload,
    batch: int,
    dtype: str,
    piece_tokens: int = PREFILL_PIECE_TOKENS,
) -> int:
    """Of one network. piece_tokens: of the prompts that are processed at once, at most."""
    sizes = memory_sizes(Networks.of([architecture]), workload, dtype)
    return int(sizes.total(batch, piece_tokens)[0])


def check_fits(architecture: Architecture, workload: Workload, device: Device, dtype: str) -> None:
    """Raise BudgetError if the batch of the workload needs more than USABLE_SHARE of the memory."""
    if workload.batch == "max":
        return
    needed = memory_bytes(architecture, workload, workload.batch, dtype)
    if needed > device.memory_bytes * USABLE_SHARE:
        largest = largest_batch(architecture, workload, device, dtype)
        raise BudgetError(
            f"memory_gb {needed / 1e9:.1f} of batch {workload.batch} of {workload.name} is more"
            f" than {USABLE_SHARE:.0%} of the {device.memory_bytes / 1e9:.1f} GB of {device.name};"
            f" the largest batch is {largest}"
        )


def largest_batch(
    architecture: Architecture, workload: Workload, device: Device, dtype: str
) -> int:
    """Of one network; raises BudgetError if not even 1 fits."""
    sizes = memory_sizes(Networks.of([architecture]), workload, dtype)
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
