"""Public kernel measurements of the package aiconfigurator-core (Apache-2.0, NVIDIA) -> a latency
table.

Only what the operators need: bfloat16 rows of gemm, attention, the gated delta rule with its short
convolution, Kimi delta attention, and experts; and fp8 rows of gemm and experts, where the
framework of the others has them. A row that cannot be right is left out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import yaml

from flashnas.base.errors import TableError
from flashnas.base.foreign import read_parquet
from flashnas.base.system import atomic_folder, disk_errors
from flashnas.base.text import first_line, one_of, printable
from flashnas.latency.schema import Device
from flashnas.latency.table_writer import write_rows
from flashnas.latency.workload import WEIGHT_BYTES
from flashnas.operators.fused_experts import experts_hit

PACKAGE, DISTRIBUTION = "aiconfigurator_core", "aiconfigurator-core"
LICENCE = "Apache-2.0"
COPYRIGHT = "Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES. All rights reserved."
DTYPE, FP8 = "bfloat16", "fp8"
MODE = "cuda_graph"
HEAD_DIMS = (64, 128, 256)
# Which framework's rows are taken for a kind: the first that has rows.
FRAMEWORKS = ("vllm", "sglang", "trtllm")
ATTENTION = ("trtllm", "vllm", "sglang")
HEADS = {
    "heads": "num_v_heads",
    "key_dim": "head_k_dim",
    "value_dim": "head_v_dim",
    "batch": "batch_size",
}
PROMPT = {**HEADS, "tokens": "seq_len"}
CONV = {"channels": "channels", "conv_size": "d_conv", "batch": "batch_size"}
# The Triton kernel of flash-linear-attention, from which other recurrences are derived that have no
# rows; a table whose own chunk rows are of it needs them once.
TRITON = "gated_delta_rule_triton_prefill"
TRITON_KERNELS = ("chunk_gated_delta_rule", "chunk_gated_delta_rule_triton")
GDN, KDA = ("linear_attention", "gdn_perf"), ("kda", "kda_perf")
# kind of rows -> family and file, phase, kernels, key columns. The kernels of KDA are
# those without the short convolution, which is a launch of its own here.
RECURRENT = {
    "gated_delta_rule_decode": (
        GDN,
        "generation",
        (
            "fused_recurrent_gated_delta_rule_packed_decode",
            "fused_recurrent_gated_delta_rule",
        ),
        HEADS,
    ),
    "gated_delta_rule_prefill": (
        GDN,
        "context",
        ("chunk_gated_delta_rule_flashinfer", "chunk_gated_delta_rule"),
        PROMPT,
    ),
    "conv_decode": (GDN, "generation", ("causal_conv1d_update",), CONV),
    "conv_prefill": (
        GDN,
        "context",
        ("causal_conv1d_fn",),
        {**CONV, "tokens": "seq_len"},
    ),
    TRITON: (GDN, "context", TRITON_KERNELS, PROMPT),
    "kda_decode": (KDA, "generation", ("fused_recurrent_kda_packed_decode",), HEADS),
    "kda_prefill": (
        KDA,
        "context",
        ("flashkda_fwd", "chunk_kda", "chunk_kda_with_fused_gate"),
        PROMPT,
    ),
}
SLACK = 1.25  # what a row of TRITON may take more than smaller ones, for a sequence and token
# Experts as vLLM serves them. Weights in fp8 have a scale for each block; with one scale for a
# matrix they are slower than bfloat16.
TYPES = {DTYPE: DTYPE, "fp8_block": FP8}
ROUTING = "power_law_1.01"  # how the tokens spread over the experts
LEAST_HIT = 0.6  # of the distinct experts of an even choice, under ROUTING
ALIGN = 16  # other widths take up to three times as long; engines pad them
ALL_GATED = "vllm_fused_moe"  # an older collector gave a gate to experts that have none
EXPERTS = {
    "hidden": "hidden_size",
    "inner": "inner",
    "experts": "num_experts",
    "active": "topk",
    "matrices": "matrices",
    "m": "num_tokens",
    "dtype": "dtype",
}
Rows = tuple[str, pd.DataFrame]  # their kind, and the rows


def import_system(system: str, out_dir: str | Path) -> Path:
    """Write the table of `system` (such as h100_sxm) of the installed package into the new folder
    `out_dir` and return it. Raises TableError: no such package, no such system, nothing measured.
    """
    try:
        package = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise TableError(
            f"the package {DISTRIBUTION} is not installed: pip install 'flashnas[import]'"
        ) from None
    systems = Path(str(package.locate_file(PACKAGE))) / "systems"
    names = sorted(path.stem for path in systems.glob("*.yaml"))
    if system not in names:
        raise TableError(one_of("system", system, names))
    device = _device(systems / f"{system}.yaml", package.version)
    data, out = systems / "data" / system, Path(out_dir)
    origin = {
        "package": DISTRIBUTION,
        "version": package.version,
        "licence": LICENCE,
        "copyright": COPYRIGHT,
    }
    with (
        disk_errors(f"{out}: cannot be written", TableError),
        _damaged(data),
        atomic_folder(out, existing="refuse") as fresh,
    ):
        tables = [
            *_gemm(data),
            *_attention(data),
            *_recurrent(data),
            *_experts(data, device.bandwidth_bytes_s),
        ]
        if not tables:
            raise TableError(f"{data}: {system} has no bfloat16 measurements")
        for kind, rows in tables:
            measured_on = {"mode": MODE, "measured_on": rows.attrs["measured_on"]}
            stacks = {}
            for name in sorted(rows["stack"].unique()):
                framework, version = name.split("-", 1)
                stacks[name] = {"framework": framework, "version": version, **measured_on}
            rows = rows if "dtype" in rows else rows.assign(dtype=DTYPE)
            rows = rows.assign(mode=MODE, source="imported")
            write_rows(fresh, kind, rows, device, stacks=stacks, origin=origin)
    return out


def _device(path: Path, version: str) -> Device:
    with _damaged(path):
        # has numbers as keys, which read_yaml refuses
        gpu = yaml.safe_load(path.read_text(encoding="utf-8"))["gpu"]
        return Device(
            name=path.stem,
            platform="cuda",
            peak_flops=float(gpu["bfloat16_tc_flops"]),
            bandwidth_bytes_s=float(gpu["mem_bw"]),
            memory_bytes=int(gpu["mem_capacity"]),
            launch_us=1e6 * float(gpu["mem_empirical_constant_latency"]),
            bandwidth_share=float(gpu["mem_bw_empirical_scaling_factor"]),
            cite=f"{DISTRIBUTION} {version}, systems/{path.name} ({LICENCE}, {COPYRIGHT})",
        )


@contextlib.contextmanager
def _damaged(place: Path) -> Iterator[None]:
    """Keys and columns that are missing or of another type are TableErrors."""
    try:
        yield
    except KeyError as error:
        raise TableError(f"{place}: {printable(error.args[0])} is missing") from None
    except (TypeError, ValueError, LookupError, yaml.YAMLError) as error:
        raise TableError(f"{place}: cannot be read: {first_line(error)}") from None


def _all(data: Path, family: str, frameworks: Sequence[str], name: str) -> Iterator[pd.DataFrame]:
    """Rows of the newest version of each framework that has some, in order, with the column
    `stack`."""
    for framework in frameworks:
        files = sorted(
            (data / family / framework).glob(f"*/{name}.parquet"),
            key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)],
        )
        if files:
            rows, version = read_parquet(files[-1], TableError), files[-1].parent.name
            rows = rows[rows["latency"] > 0]
            latency_us = 1000 * rows["latency"]
            yield rows.assign(stack=f"{framework}-{version}", latency_us=latency_us)


def _table(rows: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
    """Rename to the key columns of the kind; the median of rows that agree in all of them."""
    rows = rows.rename(columns={theirs: ours for ours, theirs in keys.items()})
    result = rows.groupby([*keys, "stack"], as_index=False, observed=True)[["latency_us"]].median()
    result.attrs["measured_on"] = str(rows["device"].iloc[0])
    return result


def _gemm(data: Path) -> Iterator[Rows]:
    """fp8: weights in fp8 with one scale; the time includes the conversion of the activations,
    token by token."""
    for rows in _all(data, "gemm", FRAMEWORKS, "gemm_perf"):
        if (rows["gemm_dtype"] == DTYPE).any():
            rows = rows[rows["gemm_dtype"].isin((DTYPE, FP8))]
            yield "gemm", _table(rows, {"m": "m", "n": "n", "k": "k", "dtype": "gemm_dtype"})
            return


def _attention(data: Path) -> Iterator[Rows]:
    """Each (head_dim, window) comes from the first framework that measured it."""
    for kind, name, length in (
        ("attention_decode", "generation_attention_perf", "context"),
        ("attention_prefill", "context_attention_perf", "tokens"),
    ):
        parts = [
            rows.assign(window_size=rows.get("window_size", 0))[
                (rows["attn_dtype"] == DTYPE)
                & (rows["kv_cache_dtype"] == DTYPE)
                & (rows["beam_width"] == 1)
                & rows["head_dim"].isin(HEAD_DIMS)
            ]
            for rows in _all(data, "attention", ATTENTION, name)
        ]
        if not sum(map(len, parts)):
            continue
        rows = pd.concat(parts)
        first = rows.groupby(["head_dim", "window_size"])["stack"].transform("first")
        rows = rows[rows["stack"] == first]
        table = _table(
            rows.assign(length=rows["step"] + 1 if length == "context" else rows["isl"]),
            {
                "heads": "num_heads",
                "kv_heads": "num_key_value_heads",
                "head_dim": "head_dim",
                "window": "window_size",
                "batch": "batch_size",
                length: "length",
            },
        )
        yield kind, table


def _recurrent(data: Path) -> Iterator[Rows]:
    """In these frameworks the number of key heads changes the kernels' times by a few per cent:
    rows of one number of value heads are taken together. The convolution runs over q, k and v at
    once."""
    own = set(TRITON_KERNELS)  # of the chunk rows that are taken
    for kind, ((family, name), phase, kernels, columns) in RECURRENT.items():
        if kind == TRITON and own <= set(TRITON_KERNELS):
            continue
        frameworks = ("sglang", "vllm") if kind == TRITON else FRAMEWORKS
        for rows in _all(data, family, frameworks, name):
            rows = rows[(rows["phase"] == phase) & rows["kernel_source"].isin(kernels)]
            if rows.empty:
                continue
            if kind == "gated_delta_rule_prefill":
                own = set(rows["kernel_source"])
            if "channels" in columns:
                keys = 2 * rows["num_k_heads"] * rows["head_k_dim"]
                rows = rows.assign(channels=keys + rows["num_v_heads"] * rows["head_v_dim"])
            yield kind, _table(_undisturbed(rows) if kind == TRITON else rows, columns)
            break


def _undisturbed(rows: pd.DataFrame) -> pd.DataFrame:
    """The shortest time of each shape: repeated measurements differ by up to 2 times, and what
    disturbs one lengthens it. Left out are those of several sequences that take more than SLACK
    times as long, for a sequence and token, as of fewer or shorter ones: a table answers such a
    cell from the smaller batch."""
    state = ["num_v_heads", "head_k_dim", "head_v_dim", "stack", "device"]
    times = rows.groupby([*state, "batch_size", "seq_len"], observed=True)["latency_us"].min()
    batch, tokens = (times.index.get_level_values(name) for name in ("batch_size", "seq_len"))
    each = times / batch / tokens
    least = each.unstack().groupby(level=state, observed=True).cummin().cummin(axis=1)
    return times[(each <= SLACK * least.stack().reindex(each.index)) | (batch == 1)].reset_index()


def _experts(data: Path, bandwidth_bytes_s: float) -> Iterator[Rows]:
    """Tensor parallelism makes experts narrower. Left out are rows that read their weights faster
    than the memory delivers them: the measurement repeats one choice of experts, which a large
    cache holds."""
    rows = next(_all(data, "moe", ("vllm",), "moe_perf"), None)
    if rows is None:
        return
    inner, dtype = rows["inter_size"] // rows["moe_tp_size"], rows["moe_dtype"].map(TYPES)
    experts, active = rows["num_experts"], rows["topk"]
    nemotron_3 = active.eq(22) | (active.eq(6) & experts.eq(128))
    matrices = 3 - (nemotron_3 & rows["kernel_source"].ne(ALL_GATED)).astype(int)
    hit = (LEAST_HIT * experts_hit(experts, active, rows["num_tokens"])).clip(active)
    numbers = hit * matrices * rows["hidden_size"] * inner
    read_us = 1e6 * numbers * dtype.map(WEIGHT_BYTES) / bandwidth_bytes_s
    rows = rows.assign(inner=inner, dtype=dtype, matrices=matrices, read_us=read_us)
    rows = rows[
        dtype.notna()
        & rows["distribution"].eq(ROUTING)
        & rows["moe_ep_size"].eq(1)
        & (inner % ALIGN).eq(0)
    ]
    shortest_us = rows.groupby("dtype")["latency_us"].transform("min")
    rows = rows[rows["latency_us"] >= shortest_us / 2 + rows["read_us"]]
    if not rows.empty:
        yield "experts", _table(rows, EXPERTS)
