"""A tiny table with invented rows, so that every sum can be made by hand."""

import itertools

import pandas as pd

from flashnas.latency.schema import Device
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import edited_meta, write_rows

# 1 byte/us x 1e6: pointwise kernels take 2 us + elements x 2 bytes / (0.5 x 4000 bytes/us) = 2 us +
# elements / 1000
TINY = Device(
    name="tiny",
    platform="cuda",
    peak_flops=1e12,
    bandwidth_bytes_s=4e9,
    memory_bytes=10**9,
    launch_us=2.0,
    bandwidth_share=0.5,
)
COMMON = {"dtype": "bfloat16", "stack": "invented-1", "mode": "cuda_graph", "source": "imported"}
STACKS = {"invented-1": {"framework": "invented", "version": "1"}}


def product_rows(latency_us, **axes):
    """One row for each combination of the axes' values."""
    names = list(axes)
    rows = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())]
    return pd.DataFrame([{**row, "latency_us": float(latency_us(**row)), **COMMON} for row in rows])


def tiny_kinds():
    """Products of powers, which log-space interpolation reproduces exactly at every point."""
    heads = dict(heads=[2, 4], kv_heads=[1, 2], head_dim=[16], window=[0], batch=[1, 4])
    recurrent = dict(heads=[1, 4], key_dim=[16], value_dim=[16], batch=[1, 4])
    return {
        "gemm": product_rows(
            lambda m, n, k: m * n * k / 1000, m=[1, 65536], n=[16, 256], k=[16, 256]
        ),
        "attention_decode": product_rows(
            lambda heads, kv_heads, batch, context, **_: kv_heads * batch * context,
            **heads,
            context=[1, 16],
        ),
        "attention_prefill": product_rows(
            lambda heads, batch, tokens, **_: heads * batch * tokens**2 / 100,
            **heads,
            tokens=[1, 32],
        ),
        "gated_delta_rule_decode": product_rows(
            lambda heads, batch, **_: 10 * heads * batch, **recurrent
        ),
        "gated_delta_rule_prefill": product_rows(
            lambda heads, batch, tokens, **_: heads * batch * tokens, **recurrent, tokens=[1, 32]
        ),
        "conv_decode": product_rows(
            lambda batch, **_: 3 * batch, channels=[32, 256], conv_size=[4], batch=[1, 4]
        ),
        "conv_prefill": product_rows(
            lambda batch, tokens, **_: batch * tokens,
            channels=[32, 256],
            conv_size=[4],
            batch=[1, 4],
            tokens=[1, 32],
        ),
    }


def write_entry(folder, key, value):
    with edited_meta(folder) as meta:
        meta[key] = value


def write_table(folder, kinds, device=TINY):
    for kind, rows in kinds.items():
        write_rows(
            folder,
            kind,
            rows,
            device,
            stacks=STACKS,
            origin={"package": "invented"},
        )
    return LatencyTable.load(folder)
