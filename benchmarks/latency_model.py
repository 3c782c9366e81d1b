"""Architectures estimated per second on one thread, beside aiconfigurator-core's own estimator on
the same kernels.

Command (from the repository root, about 20 s on one core; needs `pip install "flashnas[import]"`):

    python benchmarks/latency_model.py

Both sides estimate the same random models of attention, gated delta rule and feed-forward operators
for the decode of 8192 tokens at batch 1 on an H100, from the same rows (vLLM 0.24 products,
convolutions and recurrences; attention from vLLM on their side, from TensorRT-LLM on ours). Both
are warmed up on other models of the same space first and keep their caches. What each computes:

- flashnas: `LatencyModel.latencies`, mean over contexts 1..8192, with the small kernels, the
  embedding, the head's norm and the calibration; operators that other models had before are looked
  up and added.
- aiconfigurator: its compiled Rust engine (`evaluate_ops_json`) over the model's distinct kernels
  with their counts. It answers one context at a time; `decode-8k` takes 256 of them, the stride of
  32 that its own `run_static` has by default. The time to write the operators as JSON, once per
  model, is counted; nothing is kept between models.

Expected (one slow shared core): flashnas 27 us per model, 37,000 per second; theirs 3,500 us for
256 contexts (130 times as long) and 480 us for one context (18 times); the kernels that both know
agree to 3.5 %. A fresh process: 0.35 s for imports, 0.15 s for the table, 45 ms for the first
estimate, which builds the grids, then 8 ms for another model and 1 ms for one whose operators were
seen.

The ratio is one of designs, not of languages: a cached sum against an interpolation per kernel and
context.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from flashnas.architecture import Architecture
from flashnas.latency.calibration import Calibration
from flashnas.latency.prediction import LatencyModel

WORKLOAD = "decode-8k"
CONTEXTS = range(32, 8193, 32)
FIRST_ANSWER = """
import time; start = time.perf_counter()
from flashnas.architecture.source import load_architecture
from flashnas.latency.prediction import LatencyModel
imported = time.perf_counter()
model = LatencyModel("h100_sxm", "decode-8k"); loaded = time.perf_counter()
model.estimate(load_architecture("Nemotron-Flash-1B")); first = time.perf_counter()
other = load_architecture("Qwen3-1.7B"); before = time.perf_counter()
model.estimate(other); second = time.perf_counter()
model.estimate(other); again = time.perf_counter()
print(*(1000 * t for t in (imported - start, loaded - imported, first - loaded, second - before, again - second)))
"""


def sample(rng: np.random.Generator) -> Architecture:
    hidden = int(rng.choice([1024, 2048, 4096]))
    kinds = rng.choice(
        ["a", "gd", "f", f"f(intermediate={2 * hidden})", "a(kv_heads=2)"],
        int(rng.integers(12, 31)),
    )
    return Architecture.parse(f"{hidden}: {' '.join(kinds)}")


def aiconfigurator(
    models: list[Architecture],
) -> tuple[Callable[[Architecture, range], float], str]:
    """-> a function to ms per token, mean over contexts; and what it runs."""
    from aiconfigurator_core.sdk import common, operations, perf_database
    from aiconfigurator_core.sdk.engine import EngineHandle, build_ops_json

    engine = EngineHandle.for_database(perf_database.get_database("h100_sxm", "vllm", "0.24.0"))
    product, cache = common.GEMMQuantMode.bfloat16, common.KVCacheQuantMode.bfloat16

    def operators(a: Architecture) -> list[object]:
        counts = Counter(call for spec in a.operators for call in spec.kernels(a.hidden, "decode"))
        result: list[object] = [operations.GEMM("head", 1, a.vocab, a.hidden, product)]
        for i, (call, count) in enumerate(counts.items()):
            if call.kind == "gemm":
                result.append(
                    operations.GEMM(f"{call.label}{i}", count, call["n"], call["k"], product)
                )
            elif call.kind == "attention_decode":
                result.append(
                    operations.GenerationAttention(
                        f"{call.label}{i}",
                        count,
                        call["heads"],
                        call["kv_heads"],
                        cache,
                        head_size=call["head_dim"],
                    )
                )
            elif call.kind == "gated_delta_rule_decode":
                shape = (
                    a.hidden,
                    call["groups"],
                    call["key_dim"],
                    call["heads"],
                    call["value_dim"],
                    4,
                )
                result += [
                    operations.GDNKernel(f"{kernel}{i}", count, kernel, "generation", *shape)
                    for kernel in ("causal_conv1d_update", "fused_sigmoid_gating_delta_rule_update")
                ]
        return result

    def estimate(a: Architecture, contexts: range) -> float:
        text = build_ops_json(operators(a))
        answers = [
            engine.evaluate_ops_json(text, is_context=False, batch_size=1, s=context)
            for context in contexts
        ]
        return sum(value[1] for answer in answers for value in answer) / len(contexts)

    for a in models:
        estimate(a, CONTEXTS[::64])
    return estimate, "aiconfigurator-core, Rust engine"


def per_architecture_us(run: Callable[[], object], count: int) -> float:
    """The best of three, in microseconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    warm, timed = ([sample(rng) for _ in range(n)] for n in (200, options.architectures))

    model = LatencyModel("h100_sxm", WORKLOAD)
    model.latencies(warm)
    ours = per_architecture_us(lambda: model.latencies(timed), len(timed))
    print(
        f"{'flashnas, batch':<46}{ours:>10.1f} us per architecture{1e6 / ours:>12,.0f} per second"
    )
    try:
        theirs, name = aiconfigurator(warm[:20])
    except ImportError:
        print("aiconfigurator-core is not installed: pip install 'flashnas[import]'")
    else:
        cases = (
            (CONTEXTS, timed[:20], "256 contexts"),
            (range(4096, 4097), timed[:500], "1 context"),
        )
        for contexts, few, text in cases:
            us = per_architecture_us(
                lambda few=few, contexts=contexts: [theirs(a, contexts) for a in few], len(few)
            )
            print(
                f"{name + ', ' + text:<46}{us:>10.1f} us per architecture{1e6 / us:>12,.0f} per"
                " second"
                f"   flashnas: {us / ours:,.1f} times as many"
            )
        bare = LatencyModel("h100_sxm", WORKLOAD, calibration=Calibration())
        ratio = [
            sum(e["ms"] for e in bare.estimate(a).breakdown if e["kernel"] != "pointwise")
            / 8192
            / theirs(a, CONTEXTS)
            for a in timed[:20]
        ]
        print(
            f"same kernels, ours over theirs: {np.mean(ratio):.3f} (from {min(ratio):.3f} to"
            f" {max(ratio):.3f})"
        )
    runs = [
        subprocess.run(
            [sys.executable, "-c", FIRST_ANSWER], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    imported, loaded, first, second, again = np.median(
        [[float(v) for v in run.split()] for run in runs], axis=0
    )
    print(
        f"a fresh process: import {imported:.0f} ms, table {loaded:.0f} ms, first estimate"
        f" {first:.0f} ms,"
        f" another model {second:.1f} ms, the same again {again:.2f} ms"
    )


if __name__ == "__main__":
    main()
