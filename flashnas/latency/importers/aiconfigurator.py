"""Public kernel measurements of the package aiconfigurator-core (Apache-2.0, NVIDIA) -> a latency
table.

Only what the operators need: bfloat16 rows of gemm, attention, the gated delta rule with its short
convolution, Kimi delta attention, and experts; and fp8 rows of gemm and experts, where the
framework of the others has them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from flashnas.base.documents import MAX_YAML_VALUES, SEPARATORS
from flashnas.base.errors import TableError
from flashnas.base.foreign import MAX_YAML_MB, check_count, read_parquet, read_text
from flashnas.base.system import atomic_folder, disk_errors
from flashnas.base.text import first_line, one_of, printable
from flashnas.latency.importers.experts import EXPERTS, rows_of_experts
from flashnas.latency.schema import Device
from flashnas.latency.table_writer import RowContext, write_rows

PACKAGE, DISTRIBUTION = "aiconfigurator_core", "aiconfigurator-core"
LICENCE = "Apache-2.0"
COPYRIGHT = "Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES. All rights reserved."
DTYPE, FP8 = "bfloat16", "fp8"
MODE = "cuda_graph"
HEAD_DIMS = (64, 128, 256)
# Which framework's rows are taken for a kind: the first that has rows.
FRAMEWORKS = ("vllm", "sglang", "trtllm")
ATTENTION = ("trtllm", "vllm", "sglang")
CHUNK_KERNELS = ("chunk_gated_delta_rule_flashinfer", "chunk_gated_delta_rule")
STEP_KERNELS = (
    "fused_recurrent_gated_delta_rule_packed_decode",
    "fused_recurrent_gated_delta_rule",
)
# The Triton kernel of flash-linear-attention, from which other recurrences are derived that have no
# rows (the first that has rows); a table whose own chunk rows are of it needs them once.
TRITON, TRITON_KERNELS = (
    ("sglang", "vllm"),
    ("chunk_gated_delta_rule", "chunk_gated_delta_rule_triton"),
)
SLACK = 1.25
# Without the kernels that include the short convolution (fused_kda_decode), which is a launch of
# its own here.
KDA_CHUNK_KERNELS = ("flashkda_fwd", "chunk_kda", "chunk_kda_with_fused_gate")
KDA_STEP_KERNELS = ("fused_recurrent_kda_packed_decode",)
HEADS = {
    "heads": "num_v_heads",
    "key_dim": "head_k_dim",
    "value_dim": "head_v_dim",
    "batch": "batch_size",
}
PROMPT = {**HEADS, "tokens": "seq_len"}
CONV = {"channels": "channels", "conv_size": "d_conv", "batch": "batch_size"}
# family, file, and for each kind of rows: phase, kernels, key columns
GATED_DELTA = (
    "linear_attention",
    "gdn_perf",
    (
        ("gated_delta_rule_decode", "generation", STEP_KERNELS, HEADS),
        ("gated_delta_rule_prefill", "context", CHUNK_KERNELS, PROMPT),
        ("conv_decode", "generation", ("causal_conv1d_update",), CONV),
        ("conv_prefill", "context", ("causal_conv1d_fn",), {**CONV, "tokens": "seq_len"}),
    ),
)
KDA = (
    "kda",
    "kda_perf",
    (
        ("kda_decode", "generation", KDA_STEP_KERNELS, HEADS),
        ("kda_prefill", "context", KDA_CHUNK_KERNELS, PROMPT),
    ),
)


def import_system(system: str, out_dir: str | Path) -> Path:
    """Write the table of `system` (such as h100_sxm) of the installed package into the new folder
    `out_dir` and return it. Raises TableError: no such package, no such system, nothing measured.
    """
    folder, version = _package()
    systems = folder / "systems"
    names = sorted(path.stem for path in systems.glob("*.yaml"))
    if system not in names:
        raise TableError(one_of("system", system, names))
    device, out = _device(systems / f"{system}.yaml", system, version), Path(out_dir)
    data = systems / "data" / system
    origin = {
        "package": DISTRIBUTION,
        "version": version,
        "licence": LICENCE,
        "copyright": COPYRIGHT,
    }
    with _damaged(data):
        tables = {
            **_gemm(data),
            **_attention(data),
            **_recurrent(data, *GATED_DELTA),
            **_triton(data),
            **_recurrent(data, *KDA),
            **_experts(data, device),
        }
    if not tables:
        raise TableError(f"{data}: {system} has no bfloat16 measurements")
    with (
        disk_errors(f"{out}: cannot be written", TableError),
        _damaged(data),
        atomic_folder(out, existing="refuse") as fresh,
    ):
        for kind, rows in tables.items():
            stacks = {
                name: {
                    **dict(zip(("framework", "version"), name.split("-", 1), strict=True)),
                    "mode": MODE,
                    "measured_on": rows.attrs["measured_on"],
                }
                for name in sorted(rows["stack"].unique())
            }
            rows = rows if "dtype" in rows else rows.assign(dtype=DTYPE)
            write_rows(
                fresh,
                kind,
                rows.assign(mode=MODE, source="imported"),
                RowContext(device=device, stacks=stacks, origin=origin),
            )
    return out


def _package() -> tuple[Path, str]:
    """The folder of the installed package, and its version."""
    places = getattr(importlib.util.find_spec(PACKAGE), "submodule_search_locations", None)
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        places = None
    if not places:
        raise TableError(
            f"the package {DISTRIBUTION} is not installed: pip install 'flashnas[import]'"
        )
    return Path(next(iter(places))), version


def _device(path: Path, system: str, version: str) -> Device:
    text = read_text(path, TableError, max_mb=MAX_YAML_MB)
    check_count(text, path, TableError, most=MAX_YAML_VALUES, separators=SEPARATORS)
    try:
        data = yaml.safe_load(text)  # has numbers as keys, which read_yaml refuses
    except (
        yaml.YAMLError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise TableError(f"{path}: cannot be read: {first_line(error)}") from None
    with _damaged(path):
        gpu = data["gpu"]
        return Device(
            name=system,
            platform="cuda",
            peak_flops=float(gpu["bfloat16_tc_flops"]),
            bandwidth_bytes_s=float(gpu["mem_bw"]),
            memory_bytes=int(gpu["mem_capacity"]),
            launch_us=1e6 * float(gpu["mem_empirical_constant_latency"]),
            bandwidth_share=float(gpu["mem_bw_empirical_scaling_factor"]),
            cite=f"{DISTRIBUTION} {version}, systems/{system}.yaml ({LICENCE}, {COPYRIGHT})",
        )


@contextlib.contextmanager
def _damaged(place: Path) -> Iterator[None]:
    """Keys and columns that are missing or of another type are TableErrors."""
    try:
        yield
    except KeyError as error:
        raise TableError(f"{place}: {printable(error.args[0])} is missing") from None
    except (TypeError, ValueError) as error:
        raise TableError(f"{place}: cannot be read: {first_line(error)}") from None


def _read(data: Path, family: str, framework: str, name: str) -> pd.DataFrame | None:
    """Rows of the newest version of a framework, with the column `stack`; None if there are
    none.
    """
    files = sorted(
        (data / family / framework).glob(f"*/{name}.parquet"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)],
    )
    if not files:
        return None
    rows = read_parquet(files[-1], TableError)
    if "latency" not in rows:
        raise TableError(f"{files[-1]}: the column latency (milliseconds) is missing")
    rows = rows[rows["latency"] > 0]
    return rows.assign(
        stack=f"{framework}-{files[-1].parent.name}", latency_us=1000 * rows["latency"]
    )


def _table(rows: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
    """Rename to the key columns of the kind; the median of rows that agree in all of them."""
    rows = rows.rename(columns={theirs: ours for ours, theirs in keys.items()})
    result = rows.groupby([*keys, "stack"], as_index=False, observed=True)[["latency_us"]].median()
    result.attrs["measured_on"] = str(rows["device"].iloc[0])
    return result


def _first(
    data: Path,
    family: str,
    frameworks: Sequence[str],
    name: str,
    keep: Callable[[pd.DataFrame], pd.DataFrame],
) -> pd.DataFrame | None:
    """What is kept of the rows of the first framework of which something is kept."""
    for framework in frameworks:
        rows = _read(data, family, framework, name)
        if rows is not None and len(rows := keep(rows)):
            return rows
    return None


def _gemm(data: Path) -> dict[str, pd.DataFrame]:
    """fp8: weights in fp8 with one scale; the time includes the conversion of the activations,
    token by token."""
    rows = _first(
        data,
        "gemm",
        FRAMEWORKS,
        "gemm_perf",
        lambda rows: rows[
            rows["gemm_dtype"].isin((DTYPE, FP8) if (rows["gemm_dtype"] == DTYPE).any() else ())
        ],
    )
    keys = {"m": "m", "n": "n", "k": "k", "dtype": "gemm_dtype"}
    return {} if rows is None else {"gemm": _table(rows, keys)}


def _attention(data: Path) -> dict[str, pd.DataFrame]:
    """Each (head_dim, window) comes from the first framework that measured it."""
    result = {}
    for kind, name in (
        ("attention_decode", "generation_attention_perf"),
        ("attention_prefill", "context_attention_perf"),
    ):
        parts: list[pd.DataFrame] = []
        seen: set[tuple[int, int]] = set()
        for framework in ATTENTION:
            rows = _read(data, "attention", framework, name)
            if rows is None:
                continue
            if "window_size" not in rows:
                rows = rows.assign(window_size=0)
            rows = rows[
                (rows["attn_dtype"] == DTYPE)
                & (rows["kv_cache_dtype"] == DTYPE)
                & (rows["beam_width"] == 1)
                & rows["head_dim"].isin(HEAD_DIMS)
            ]
            slices = pd.MultiIndex.from_frame(rows[["head_dim", "window_size"]])
            parts.append(rows[~slices.isin(list(seen))])
            seen |= set(slices.unique())
        if parts and sum(map(len, parts)):
            rows = pd.concat(parts)
            tokens = rows["step"] + 1 if kind == "attention_decode" else rows["isl"]
            result[kind] = _table(
                rows.assign(tokens=tokens),
                {
                    "heads": "num_heads",
                    "kv_heads": "num_key_value_heads",
                    "head_dim": "head_dim",
                    "window": "window_size",
                    "batch": "batch_size",
                    "context" if kind == "attention_decode" else "tokens": "tokens",
                },
            )
    return result


def _experts(data: Path, device: Device) -> dict[str, pd.DataFrame]:
    keep = functools.partial(rows_of_experts, bandwidth_bytes_s=device.bandwidth_bytes_s)
    rows = _first(data, "moe", ("vllm",), "moe_perf", keep)
    return {} if rows is None else {"experts": _table(rows, EXPERTS)}


def _recurrent(
    data: Path, family: str, name: str, kinds: tuple[Any, ...]
) -> dict[str, pd.DataFrame]:
    """In these frameworks the number of key heads changes the kernels' times by a few per cent:
    rows of one number of value heads are taken together. The convolution runs over q, k and v at
    once."""
    result: dict[str, pd.DataFrame] = {}
    for kind, phase, kernels, columns in kinds:
        rows = _first(
            data, family, FRAMEWORKS, name, functools.partial(_of, phase=phase, kernels=kernels)
        )
        if rows is None:
            continue
        if "num_k_heads" in rows:
            channels = (
                2 * rows["num_k_heads"] * rows["head_k_dim"]
                + rows["num_v_heads"] * rows["head_v_dim"]
            )
            rows = rows.assign(channels=channels)
        result[kind] = _table(rows, columns)
    return result


def _triton(data: Path) -> dict[str, pd.DataFrame]:
    """Chunk rows of the Triton kernel, where `_recurrent` took those of another one. Repeated
    measurements of one shape differ by up to 2 times, and numbers of key heads by up to 1.6 times
    without an order: what disturbs a measurement lengthens it, so that the shortest is taken."""
    taken, rows = (
        _first(
            data,
            GATED_DELTA[0],
            frameworks,
            GATED_DELTA[1],
            functools.partial(_of, phase="context", kernels=kernels),
        )
        for frameworks, kernels in ((FRAMEWORKS, CHUNK_KERNELS), (TRITON, TRITON_KERNELS))
    )
    if taken is None or rows is None or set(taken["kernel_source"]) <= set(TRITON_KERNELS):
        return {}
    shortest = rows.groupby([*PROMPT.values(), "stack", "device"], as_index=False, observed=True)
    return {
        "gated_delta_rule_triton_prefill": _undisturbed(
            _table(shortest[["latency_us"]].min(), PROMPT)
        )
    }


def _undisturbed(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the rows of several sequences that take more than SLACK times as long as two of half
    as many sequences, or of half as many tokens, one after the other: 2 of 1080 on the H100, 204 on
    the H200, which is not the slower one. A table answers such a cell from the smaller batch."""
    names = ["heads", "key_dim", "value_dim", "batch", "tokens"]
    order = rows.assign(work=rows["batch"] * rows["tokens"]).sort_values(["work", "batch"]).index
    sizes, times = rows[names].to_numpy(int), rows["latency_us"].to_numpy(float)
    shortest: dict[tuple[int, ...], float] = {}
    kept: list[int] = []
    for i in map(int, order):
        *state, batch, tokens = map(int, sizes[i])
        halves = [
            shortest[half]
            for half in ((*state, batch // 2, tokens), (*state, batch, tokens // 2))
            if half in shortest
        ]
        limit = 2 * min(halves, default=math.inf)
        shortest[(*state, batch, tokens)] = min(float(times[i]), limit)
        if batch == 1 or times[i] <= SLACK * limit:
            kept.append(i)
    result = rows.loc[sorted(kept)].reset_index(drop=True)
    result.attrs.update(rows.attrs)
    return result


def _of(rows: pd.DataFrame, phase: str, kernels: tuple[str, ...]) -> pd.DataFrame:
    return rows[(rows["phase"] == phase) & rows["kernel_source"].isin(kernels)]
