"""Tokens per second, share of the device's peak and memory of some training steps of one network on
random tokens.

Command (from the repository root; on a GPU, `make gpu` runs it for five networks):

    python benchmarks/training_steps.py '1280(vocab=32768): 8x(m2 f)' --device cuda

The steps are those of `flashnas train`: bfloat16 products and float32 weights on a GPU, float32 on
a CPU, AdamW, clipping. The first tenth of the steps, in which kernels are compiled, is timed apart;
tokens per second are those of the median of the others. FLOPs are three times the forward pass as
`Architecture` counts it. The peak is a large matrix product on the same device in the same dtype.
Memory is the most that torch held, and on a CPU that of the process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
from pathlib import Path

import numpy as np
import torch

from flashnas.architecture import Architecture
from flashnas.data.dataset import Dataset
from flashnas.profiling.platforms import PLATFORMS
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Trainer, check_job


def measure(
    notation: str,
    device: str,
    steps: int,
    sequence_tokens: int,
    batch_sequences: int,
    micro_batch_sequences: int,
) -> dict[str, object]:
    """The figures of one training."""
    architecture = Architecture.parse(notation)
    recipe = dataclasses.replace(
        Recipe.load("gpu"),
        width_factor=1,
        vocab=architecture.vocab,
        sequence_tokens=sequence_tokens,
        batch_sequences=batch_sequences,
        micro_batch_sequences=micro_batch_sequences,
        device=device,
        tokens=steps * batch_sequences * sequence_tokens,
        validation_tokens=sequence_tokens,
        curve_points=1,
        curve_tokens=sequence_tokens,
        dtype=PLATFORMS[device].dtype,
    )
    random = np.random.default_rng(0)
    train, validation = (
        random.integers(architecture.vocab, size=size, dtype=np.uint32)
        for size in (4 * recipe.batch_tokens + 1, 2 * sequence_tokens)
    )
    dataset = Dataset(
        folder=Path(),
        source="random tokens",
        vocab=architecture.vocab,
        train=train,
        validation=validation,
        validation_bytes=len(validation),
        notes=(),
    )
    check_job(architecture, dataset, recipe)
    peak_flops = PLATFORMS[device].product_flops()
    trainer = Trainer(architecture, dataset, recipe, seed=0)
    seconds = [step.seconds for step in trainer.steps()]
    first, rest = seconds[: max(1, steps // 10)], seconds[max(1, steps // 10) :] or seconds
    tokens_per_s = recipe.batch_tokens / statistics.median(rest)
    flops = 3 * architecture.flops_per_token(sequence_tokens)
    memory = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {
        "network": notation,
        "device": device,
        "steps": steps,
        "batch_tokens": recipe.batch_tokens,
        "dtype": recipe.dtype,
        "tokens_per_s": tokens_per_s,
        "share_of_peak": flops * tokens_per_s / peak_flops,
        "peak_flops": peak_flops,
        "memory_bytes": memory,
        "params": architecture.params,
        "first_steps_s": sum(first),
        "backends": trainer.backends,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="notation of an architecture")
    parser.add_argument("--device", choices=tuple(PLATFORMS), default="cuda")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sequence-tokens", type=int, default=2048)
    parser.add_argument("--batch-sequences", type=int, default=16)
    parser.add_argument("--micro-batch-sequences", type=int, default=8)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args()
    figures = measure(
        options.network,
        options.device,
        options.steps,
        options.sequence_tokens,
        options.batch_sequences,
        options.micro_batch_sequences,
    )
    text = json.dumps(figures, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
