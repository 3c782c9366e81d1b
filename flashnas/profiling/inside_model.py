"""Operators timed inside a whole model, with a clock between its blocks.

The model's weights are in the caches as those of a deployed model, and its timings include what
happens between blocks. At width 512, sums of such rows were 0.86 to 1.05 of whole models; sums of
operators alone, rotated over copies of their weights, were 0.95 to 1.33 (experiments/validate_cpu).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.memory import memory_bytes
from flashnas.latency.row_requests import RowGroup, RowRequest
from flashnas.latency.workload import Workload
from flashnas.network.model import HybridLM
from flashnas.profiling.device_timing import Measurement, Results, enough
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import build_model, filled_cache, pieces
from flashnas.space.operator_space import OperatorSpace

# over all lengths of a group, so that a slow moment of the machine affects them all
ROUNDS = 3
DEPTH_SAMPLES = 64  # sampled genotypes for the depth of the model
MODEL_BYTES = 4 * 2**30  # of the operators' weights at most


def reference_architecture(
    space: OperatorSpace[Any], hidden: int, value_bytes: int
) -> Architecture:
    """Every operator of the space equally often, in a shuffled order that is always the same; as
    deep as the median of sampled architectures, or as deep as fits MODEL_BYTES."""
    rng, kinds = np.random.default_rng(0), space.kinds()
    depth = float(
        np.median([len(space.operators(space.sample(rng))) for _ in range(DEPTH_SAMPLES)])
    )
    weight_bytes = value_bytes * sum(spec.params(hidden) for spec in kinds)
    repeats = max(1, min(round(depth / len(kinds)), MODEL_BYTES // weight_bytes))
    order = rng.permutation(np.repeat(np.arange(len(kinds)), repeats))
    return space.build(tuple(kinds[i] for i in order), hidden)


def measure_inside_model(group: RowGroup, space: OperatorSpace[Any], setup: Setup) -> Results:
    """Time the requests of a group; `effort.seconds` limits each of its lengths."""
    architecture = reference_architecture(space, group.hidden, setup.torch_dtype.itemsize)
    lengths, error = _fitting(architecture, group, setup)
    samples: dict[RowRequest, list[float]] = {
        item: [] for item in group.items if item.length in lengths or (lengths and not item.length)
    }
    results: Results = {item: error for item in group.items if error and item not in samples}
    if not samples:
        return results
    model = build_model(architecture, setup)
    start = _decode if group.phase == "decode" else _prefill
    passes = {length: start(model, group.batch, length, setup) for length in lengths}
    for run in passes.values():
        run()
        run()
    names = (
        "embedding",
        *(str(spec.resolved(group.hidden)) for spec in architecture.operators),
        "head",
    )
    for number in range(1, ROUNDS + 1):
        for length, run in passes.items():
            series = {
                item.operator: samples[item] for item in samples if item.length in (0, length)
            }
            end = time.perf_counter() + setup.effort.seconds / ROUNDS
            while True:
                for name, us in zip(names, run(), strict=False):
                    if name in series:
                        series[name].append(us)
                if enough(series.values(), setup.effort, end, number / ROUNDS):
                    break
    return results | {item: Measurement.of(values) for item, values in samples.items()}


def _fitting(
    architecture: Architecture, group: RowGroup, setup: Setup
) -> tuple[list[int], DeviceMemoryError | None]:
    """The lengths for which there is memory, and why there is none for others. Caches of all
    contexts are there together."""
    decode, dtype = group.phase == "decode", setup.dtype_name
    fitting, lack = [], None
    at_once = group.batch if decode else setup.platform.piece_tokens
    weights = kept = memory_bytes(architecture, Workload(generated_tokens=1), 1, dtype, 1)
    for length in group.lengths:
        request = Workload(generated_tokens=length) if decode else Workload(prompt_tokens=length)
        needed = kept - weights + memory_bytes(architecture, request, group.batch, dtype, at_once)
        try:
            setup.platform.check_memory(needed, group.batch)
        except DeviceMemoryError as error:
            lack = error
            continue
        fitting.append(length)
        kept = needed if decode else kept
    return fitting, lack


def _decode(model: HybridLM, batch: int, context: int, setup: Setup) -> Callable[[], list[float]]:
    tokens_B = torch.zeros(batch, dtype=torch.long, device=setup.device)
    cache, platform = filled_cache(model, batch, context), setup.platform

    def run() -> list[float]:
        moments = [platform.moment()]
        x_BD = model.embedding(tokens_B)
        moments.append(platform.moment())
        for block, state in zip(model.blocks, cache.states, strict=True):
            x_BD, _ = block.step(x_BD, state)
            moments.append(platform.moment())
        F.linear(model.final_norm(x_BD), model.head_weight).argmax(-1)
        moments.append(platform.moment())
        return platform.intervals_us(moments)

    return run


def _prefill(model: HybridLM, batch: int, tokens: int, setup: Setup) -> Callable[[], list[float]]:
    """The times of the pieces in which the prompts are read, added up."""
    tokens_BT = torch.randint(model.architecture.vocab, (batch, tokens), device=setup.device)
    platform = setup.platform

    def run() -> list[float]:
        times = []
        for parts in pieces(tokens_BT, platform.piece_tokens):
            states: list[Any] = [None] * len(model.blocks)
            for part_BT in parts:
                moments = [platform.moment()]
                x_BTD = model.embedding(part_BT)
                moments.append(platform.moment())
                after = []
                for block, state in zip(model.blocks, states, strict=True):
                    x_BTD, state = block(x_BTD, state)
                    after.append(state)  # as for a prompt that is continued
                    moments.append(platform.moment())
                times.append(platform.intervals_us(moments))
                states = after
        return [sum(parts) for parts in zip(*times, strict=True)]

    return run
