"""Tokens per second of greedy decoding at batch 1 on the CPU: ours, transformers' generate, and the
bandwidth limit.

Command (from the repository root; needs the `dev` extra; about 5 minutes on one core):

    python benchmarks/decode.py

The models are those of transformers_twins.py with the same float32 weights; both sides read a
prompt of 32 tokens and generate 128 more in one process on the same threads, turn by turn, and must
generate the same tokens. Ours is `HybridLM.generate`; theirs is `generate` with its default cache
and, for attention, also with its static cache: the faster one in a trial before. Times cover the
whole request; figures are medians, the ratio is the median of the ratios turn by turn.

limit: what the machine could generate if each token only read every weight once: bytes of all
weights over the bandwidth of a matrix-vector product with a weight as large as the whole model,
measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from transformers_twins import MIXERS, VOCAB, allow_linear_caches, ours, theirs

from flashnas.base.system import keep_memory
from flashnas.network.model import HybridLM

PROMPT = 32


@dataclass(frozen=True, kw_only=True)
class Row:
    mixer: str
    width: int
    ours_tokens_per_s: float
    theirs_tokens_per_s: float | None
    ratio: float | None
    their_cache: str
    limit_tokens_per_s: float
    share: float  # of the limit


def measure(mixer: str, width: int, count: int, repeats: int) -> Row:
    torch.manual_seed(1)
    prompt = torch.randint(0, VOCAB, (1, PROMPT))
    model = ours(mixer, width).eval()
    run_ours = lambda: model.generate(prompt, count)  # noqa: E731
    cache, run_theirs = _fastest(mixer, model, prompt, count) if mixer in MIXERS else ("", None)
    generated = run_ours()
    if run_theirs and not torch.equal(generated, run_theirs()):
        raise AssertionError(f"{mixer} {width}: the two sides generate different tokens")
    times_ours, times_theirs = [], []
    for _ in range(repeats):
        times_ours.append(_seconds(run_ours))
        if run_theirs:
            times_theirs.append(_seconds(run_theirs))
    rate = count / statistics.median(times_ours)
    limit = 1 / _seconds_to_read(model)
    return Row(
        mixer=mixer,
        width=width,
        ours_tokens_per_s=rate,
        theirs_tokens_per_s=count / statistics.median(times_theirs) if times_theirs else None,
        ratio=statistics.median(b / a for a, b in zip(times_ours, times_theirs, strict=True))
        if times_theirs
        else None,
        their_cache=cache,
        limit_tokens_per_s=limit,
        share=rate / limit,
    )


def _fastest(
    mixer: str, model: HybridLM, prompt: Tensor, count: int
) -> tuple[str, Callable[[], Tensor]]:
    network = theirs(mixer, model)
    candidates = []
    for cache in ("default", "static") if mixer == "a" else ("default",):
        options = (
            {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
        )

        def run(options: dict[str, object] = options) -> Tensor:
            mask = torch.ones_like(prompt)
            tokens: Tensor = network.generate(
                prompt,
                attention_mask=mask,
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                **options,
            )  # type: ignore[operator]
            return tokens[:, PROMPT:]

        run()
        candidates.append((_seconds(run), cache, run))
    _, cache, run = min(candidates, key=lambda candidate: candidate[0])
    return cache, run


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _seconds_to_read(model: HybridLM) -> float:
    """Seconds of one matrix-vector product with a matrix of as many bytes as the model, median."""
    rows = model.architecture.params // 1024
    matrix, vector, out = torch.randn(rows, 1024), torch.randn(1024), torch.empty(rows)
    times = [_seconds(lambda: torch.mv(matrix, vector, out=out)) for _ in range(21)]
    return statistics.median(times)


def table(rows: list[Row]) -> str:
    """The rows in markdown."""
    lines = [
        "| mixer | width | ours tokens/s | transformers tokens/s | ratio | its cache | limit"
        " tokens/s | share |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        other, ratio = (
            (f"{row.theirs_tokens_per_s:,.0f}", f"{row.ratio:.2f}")
            if row.theirs_tokens_per_s
            else ("", "")
        )
        lines.append(
            f"| {row.mixer} | {row.width} | {row.ours_tokens_per_s:,.0f} | {other} | {ratio}"
            f" | {row.their_cache} | {row.limit_tokens_per_s:,.0f} | {row.share:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mixers",
        nargs="+",
        default=[
            "a",
            "m2",
            "gd",
            "swa(head_dim=64,window=64)",
            "gla(head_dim=64)",
            "d(head_dim=64)",
        ],
        help="operators; a, m2 and gd are compared with transformers",
    )
    parser.add_argument("--widths", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--tokens", type=int, default=128, help="generated per request")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_memory()
    allow_linear_caches()
    rows = [
        measure(mixer, width, arguments.tokens, arguments.repeats)
        for mixer in arguments.mixers
        for width in arguments.widths
    ]
    print(
        json.dumps({"threads": torch.get_num_threads(), "rows": [asdict(row) for row in rows]})
        if arguments.json
        else table(rows)
    )


if __name__ == "__main__":
    main()
