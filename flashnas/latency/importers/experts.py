"""Rows of fused experts of aiconfigurator-core that a table takes: those of vLLM as it serves them."""

from __future__ import annotations

import pandas as pd

from flashnas.latency.workload import WEIGHT_BYTES
from flashnas.operators.fused_experts import experts_hit

# Weights in fp8 have a scale for each block; with one scale for a matrix they are slower than
# bfloat16.
TYPES = {"bfloat16": "bfloat16", "fp8_block": "fp8"}
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


def rows_of_experts(rows: pd.DataFrame, bandwidth_bytes_s: float) -> pd.DataFrame:
    """With the columns of EXPERTS. Tensor parallelism makes experts narrower. Left out are rows
    that read their weights faster than the memory delivers them: the measurement repeats one choice
    of experts, which a large cache holds."""
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
    return rows[rows["latency_us"] >= shortest_us / 2 + rows["read_us"]]
