"""Training tokens per second of single mixers on the CPU: the operators' torch code against Numba's.

Command (from the repository root; about a minute on one core):

    python benchmarks/backends.py

One case is a layer alone, a width and a batch of sequences of 256 tokens, in float32. Timed is the forward and backward
pass, gradients of the input and of all weights. Both backends have the same weights and run in one process, turn by
turn. Figures are medians, the ratio is the median of the ratios turn by turn. benchmarks/training.py compares with
transformers.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from flashnas.architecture import parse_operators
from flashnas.base.process import keep_memory
from flashnas.operators.backends.core import choose_backend
from flashnas.operators.layer import Layer, build_layer

TOKENS = 256
MIXERS = ("gd(head_dim=64)", "d(head_dim=64)", "kda(head_dim=64)", "r7(head_dim=64)", "gla(head_dim=64)",
          "m2(head_dim=64)", "m")


def layer_of(text: str, width: int, backend: str) -> Layer:
    torch.manual_seed(0)
    layer = build_layer(parse_operators(text)[0], width)
    choose_backend(layer, backend)
    return layer


def turn(layer: Layer, x: torch.Tensor) -> Callable[[], float]:
    def run() -> float:
        gc.collect()
        started = time.perf_counter()
        y, _ = layer(x)
        y.sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None
        return time.perf_counter() - started
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), help="operators with their sizes")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_memory()
    print("| mixer | width | numba tokens/s | torch tokens/s | ratio |\n|---|--:|--:|--:|--:|")
    for width in arguments.widths:
        x = torch.randn(arguments.batch, TOKENS, width, requires_grad=True)
        for mixer in arguments.mixers:
            runs = [turn(layer_of(mixer, width, backend), x) for backend in ("auto", "torch")]
            for run in runs:
                run()
            times = [[run() for run in runs] for _ in range(arguments.repeats)]
            ratio = statistics.median(plain / ours for ours, plain in times)
            ours, plain = (arguments.batch * TOKENS / statistics.median(column) for column in zip(*times, strict=True))
            print(f"| {mixer} | {width} | {ours:,.0f} | {plain:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
