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
from flashnas.latency.memory import memory_bytes
from flashnas.latency.row_requests import RowGroup, RowRequest
from flashnas.latency.workload import Workload
from flashnas.network.model import HybridLM
from flashnas.profiling.alone import Note
from flashnas.profiling.device_timing import Effort, Measurement, enough
from flashnas.profiling.setup import Setup
from flashnas.profiling.whole_model import (
    at_once,
    build_model,
    filled_cache,
    parts_of,
    pieces,
    too_large,
)
from flashnas.space.operator_space import OperatorSpace

# over all lengths of a group, so that a slow moment of the machine affects them all
ROUNDS = 3
LOOKED_AT = 64  # sampled genotypes for the depth of the model
MODEL_BYTES = 4 * 2**30  # of the operators' weights at most


def reference_architecture(
    space: OperatorSpace[Any], hidden: int, value_bytes: int
) -> Architecture:
    """Every operator of the space equally often, in a shuffled order that is always the same; as
    deep as the median of sampled architectures, or as deep as fits MODEL_BYTES."""
    rng, kinds = np.random.default_rng(0), space.kinds()
    depth = float(np.median([len(space.operators(space.sample(rng))) for _ in range(LOOKED_AT)]))
    weight_bytes = value_bytes * sum(spec.params(hidden) for spec in kinds)
    each = max(1, min(round(depth / len(kinds)), MODEL_BYTES // weight_bytes))
    order = rng.permutation(np.repeat(np.arange(len(kinds)), each))
    return space.build(tuple(kinds[i] for i in order), hidden)


def measure_inside_model(
    group: RowGroup, space: OperatorSpace[Any], setup: Setup, note: Note = lambda *_: None
) -> dict[RowRequest, Measurement]:
    """Time the requests of a group; `effort.seconds` limits each of its lengths. What does not fit
    into memory is left out with a note."""
    with setup.running():
        architecture = reference_architecture(space, group.hidden, setup.torch_dtype.itemsize)
        lengths, reason = _fitting(architecture, group, setup)
        items = [
            item for item in group.items if item.length in lengths or (lengths and not item.length)
        ]
        for item in group.items:
            if item not in items:
                note(item, f"left out: {reason}")
        if not items:
            return {}
        model = build_model(architecture, setup)
        names = [
            "embedding",
            *(str(spec.resolved(group.hidden)) for spec in architecture.operators),
            "head",
        ]
        runs = {
            length: _decode(model, group.batch, length, setup)
            if group.phase == "decode"
            else _prefill(model, group.batch, length, setup)
            for length in lengths
        }
        samples: dict[RowRequest, list[float]] = {item: [] for item in items}
        for run in runs.values():
            run()
            run()
        for number in range(1, ROUNDS + 1):
            for length, run in runs.items():
                filled = {
                    item.operator: samples[item] for item in items if item.length in (0, length)
                }
                _repeat(run, names, filled, setup.effort, number / ROUNDS)
    return {item: Measurement.of(values) for item, values in samples.items()}


def _fitting(architecture: Architecture, group: RowGroup, setup: Setup) -> tuple[list[int], str]:
    """The lengths for which there is memory, and why there is none for others. Caches of all
    contexts are there together."""
    free, dtype = setup.platform.free_bytes(), setup.dtype_name
    if free is None:
        return list(group.lengths), ""
    decode, fitting, reason = group.phase == "decode", [], ""
    weights = kept = memory_bytes(architecture, Workload(generated_tokens=1), 1, dtype, 1)
    for length in group.lengths:
        request = Workload(generated_tokens=length) if decode else Workload(prompt_tokens=length)
        plan = [] if decode else pieces(group.batch, length, setup.platform.piece_tokens)
        needed = (
            kept
            - weights
            + memory_bytes(architecture, request, group.batch, dtype, at_once(plan, group.batch))
        )
        if needed > free:
            reason = too_large(needed, free, group.batch)
            continue
        fitting.append(length)
        kept = needed if decode else kept
    return fitting, reason


def _repeat(
    run: Callable[[], list[float]],
    names: list[str],
    samples: dict[str, list[float]],
    effort: Effort,
    share: float,
) -> None:
    """Add passes through the model to the samples of each operator."""
    end = time.perf_counter() + effort.seconds / ROUNDS
    while True:
        for name, us in zip(names, run(), strict=False):
            if name in samples:
                samples[name].append(us)
        if enough(samples.values(), effort, end, share):
            return


def _decode(model: HybridLM, batch: int, context: int, setup: Setup) -> Callable[[], list[float]]:
    tokens_B = torch.zeros(batch, dtype=torch.long, device=setup.device)
    cache = filled_cache(model, batch, context)

    def run() -> list[float]:
        marks = setup.platform.marks()
        marks.mark()
        x_BD = model.embedding(tokens_B)
        marks.mark()
        for block, state in zip(model.blocks, cache.states, strict=True):
            x_BD, _ = block.step(x_BD, state)
            marks.mark()
        F.linear(model.final_norm(x_BD), model.head_weight).argmax(-1)
        marks.mark()
        return marks.intervals_us()

    return run


def _prefill(model: HybridLM, batch: int, tokens: int, setup: Setup) -> Callable[[], list[float]]:
    """The times of the pieces in which the prompts are read, added up."""
    tokens_BT = torch.randint(model.architecture.vocab, (batch, tokens), device=setup.device)
    read = parts_of(tokens_BT, pieces(batch, tokens, setup.platform.piece_tokens))

    def run() -> list[float]:
        times = []
        for parts in read:
            states: list[Any] = [None] * len(model.blocks)
            for part_BT in parts:
                marks = setup.platform.marks()
                marks.mark()
                x_BTD = model.embedding(part_BT)
                marks.mark()
                kept = []
                for block, state in zip(model.blocks, states, strict=True):
                    x_BTD, after = block(x_BTD, state)
                    kept.append(after)  # as for a prompt that is continued
                    marks.mark()
                times.append(marks.intervals_us())
                states = kept
        return [sum(each) for each in zip(*times, strict=True)]

    return run
