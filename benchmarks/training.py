"""Training tokens per second of small models on the CPU: ours, transformers', and the machine's
matrix-product ceiling.

Command (from the repository root; needs the `dev` extra; about 4 minutes on one core):

    python benchmarks/training.py

One case is a mixer, with or without an FFN behind each, a width, a dtype and a batch of sequences
of 256 tokens; the models are those of transformers_twins.py, the same weights on both sides, and
their losses are compared before anything is timed. Timed
are loss, backward pass and the release of gradients; no optimizer. Both sides run in one process on
the same threads, turn by turn; figures are medians, the ratio is the median of the ratios turn by
turn.

- theirs: transformers' model with its own loss, at the fastest of its options in a trial before:
  chunk lengths 32 to 256 for Mamba2 and 32 to 128 for the delta rule, sdpa or eager attention, and
  in bf16 autocast or bf16 weights.
- ours: `HybridLM.loss`, in bf16 under autocast with float32 weights, as the proxy trains.
- share: the model's FLOPs (three times the forward pass as `Architecture` counts it: every product,
  each recurrence token by token) per second, as a share of the fastest matrix product among the
  model's own shapes in that dtype.
- highest: the ratio that a model at that ceiling would have, 1 / transformers' share; no work could
  raise it further.

Mixers that transformers has no twin for (all other operators here) show only their share.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from transformers_twins import CHUNKS, MIXERS, VOCAB, ours, set_chunk, theirs

from flashnas.architecture import Architecture
from flashnas.base.system import keep_memory
from flashnas.network.model import HybridLM

TOKENS = 256
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Row:
    mixer: str
    ffn: bool
    width: int
    dtype: str
    batch: int
    ours_tokens_per_s: float
    theirs_tokens_per_s: float | None
    ratio: float | None
    their_options: str
    share: float  # of the ceiling
    ceiling_gflops: float

    @property
    def highest_ratio(self) -> float | None:
        return self.ratio / self.share if self.ratio else None


def measure(mixer: str, ffn: bool, width: int, dtype: str, batch: int, repeats: int) -> Row:
    torch.manual_seed(1)
    tokens = torch.randint(0, VOCAB, (batch, TOKENS + 1))
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    model = ours(mixer, width, ffn)
    run_ours = _ours(model, x, y, dtype)
    options, run_theirs = _fastest(mixer, model, x, y, dtype) if mixer in MIXERS else ("", None)
    run_ours()
    times_ours, times_theirs = [], []
    for _ in range(repeats):
        times_ours.append(_seconds(run_ours))
        if run_theirs:
            times_theirs.append(_seconds(run_theirs))
    ceiling = _ceiling_flops(model.architecture, batch, DTYPES[dtype], repeats)
    count, seconds = batch * TOKENS, statistics.median(times_ours)
    return Row(
        mixer=mixer,
        ffn=ffn,
        width=width,
        dtype=dtype,
        batch=batch,
        ours_tokens_per_s=count / seconds,
        theirs_tokens_per_s=count / statistics.median(times_theirs) if times_theirs else None,
        ratio=statistics.median(b / a for a, b in zip(times_ours, times_theirs, strict=True))
        if times_theirs
        else None,
        their_options=options,
        share=count * _flops_per_token(model.architecture) / seconds / ceiling,
        ceiling_gflops=ceiling / 1e9,
    )


def _ours(model: HybridLM, x: Tensor, y: Tensor, dtype: str) -> Callable[[], float]:
    def run() -> float:
        with _autocast(dtype == "bf16"):
            loss = model.loss(x, y)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.item()

    return run


def _theirs(
    network: nn.Module, chunk: int, x: Tensor, y: Tensor, autocast: bool
) -> Callable[[], float]:
    def run() -> float:
        set_chunk(network, chunk)
        with _autocast(autocast):
            loss = network(input_ids=x, labels=y, shift_labels=y, use_cache=False).loss
        loss.backward()
        network.zero_grad(set_to_none=True)
        return float(loss.item())

    return run


def _autocast(enabled: bool) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if enabled else contextlib.nullcontext()


def _fastest(
    mixer: str, model: HybridLM, x: Tensor, y: Tensor, dtype: str
) -> tuple[str, Callable[[], float]]:
    """transformers' options that train fastest, among those that compute the same loss."""
    expected = _ours(model, x, y, dtype)()
    candidates = []
    for attention in ("sdpa", "eager") if mixer == "a" else ("",):
        for weights in ("",) if dtype == "float32" else ("autocast", "bf16 weights"):
            network = theirs(mixer, model, attention or "sdpa")
            if weights == "bf16 weights":
                network = network.bfloat16()
            for chunk in CHUNKS[mixer]:
                run = _theirs(network, chunk, x, y, weights == "autocast")
                name = " ".join(
                    filter(None, (attention, f"chunk {chunk}" if chunk else "", weights))
                )
                loss, tolerance = run(), 2e-5 if dtype == "float32" else 2e-2
                if abs(loss - expected) > tolerance:
                    raise AssertionError(f"{mixer} {name}: loss {loss}, ours {expected}")
                candidates.append((_seconds(run), name, run))
    _, name, run = min(candidates, key=lambda candidate: candidate[0])
    return name, run


def _seconds(run: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _flops_per_token(architecture: Architecture) -> float:
    head = 2 * architecture.hidden * architecture.vocab
    return 3 * (architecture.prefill_flops(TOKENS) / TOKENS + head - head / TOKENS)


def _ceiling_flops(
    architecture: Architecture, batch: int, dtype: torch.dtype, repeats: int
) -> float:
    """FLOP/s of the fastest product [tokens, k] x [k, n] among the model's weights, medians."""
    shapes = {
        (call["k"], call["n"])
        for spec in architecture.operators
        for call in spec.kernels(architecture.hidden, "prefill")
        if call.kind == "gemm"
    }
    rates = []
    for k, n in sorted(shapes | {(architecture.hidden, architecture.vocab)}):
        x, weight = torch.randn(batch * TOKENS, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        out = torch.empty(batch * TOKENS, n, dtype=dtype)
        torch.mm(x, weight.T, out=out)
        times = [_seconds(lambda: torch.mm(x, weight.T, out=out)) for _ in range(repeats)]  # noqa: B023
        rates.append(2 * batch * TOKENS * k * n / statistics.median(times))
    return max(rates)


def table(rows: list[Row]) -> str:
    """The rows in markdown."""
    lines = [
        "| layer | width | dtype | batch | ours tokens/s | transformers tokens/s | ratio | highest"
        " | its options "
        "| share of ceiling | ceiling GFLOP/s |",
        "|---|--:|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        compared = row.theirs_tokens_per_s and row.ratio and row.highest_ratio
        other = (
            f"{row.theirs_tokens_per_s:,.0f} | {row.ratio:.2f} | {row.highest_ratio:.2f}"
            if compared
            else " | | "
        )
        lines.append(
            f"| {row.mixer}{' f' if row.ffn else ''} | {row.width} | {row.dtype} | {row.batch}"
            f" | {row.ours_tokens_per_s:,.0f} | {other} | {row.their_options} | {row.share:.0%}"
            f" | {row.ceiling_gflops:.0f} |"
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
        help="operators; a, m2, m2(state=32) and gd are compared with transformers",
    )
    parser.add_argument("--widths", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--layers",
        nargs="+",
        choices=("alone", "ffn"),
        default=["alone", "ffn"],
        help="mixers alone, mixers with an FFN (all but m2)",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_memory()
    cases = [
        (mixer, layers == "ffn")
        for layers in arguments.layers
        for mixer in arguments.mixers
        if layers == "alone" or not mixer.startswith("m2")
    ]
    rows = [
        measure(mixer, ffn, width, dtype, batch, arguments.repeats)
        for mixer, ffn in cases
        for width in arguments.widths
        for dtype in arguments.dtypes
        for batch in arguments.batches
    ]
    print(
        json.dumps({"threads": torch.get_num_threads(), "rows": [asdict(row) for row in rows]})
        if arguments.json
        else table(rows)
    )


if __name__ == "__main__":
    main()
