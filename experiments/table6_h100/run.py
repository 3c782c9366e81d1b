"""Predict the H100 column of arXiv 2511.18890 table 6; writes results.csv. See README.md.

python experiments/table6_h100/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from flashnas.architecture.source import presets
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tools"))
from fit_kernels import fit, whole_models  # noqa: E402


def predictions(table: LatencyTable) -> pd.DataFrame:
    """One row per preset: measured figures where known, and what the committed constants
    predict.
    """
    rows = pd.DataFrame({"model": list(presets())})
    rows = rows.merge(
        pd.read_csv(HERE / "measured.csv").drop(columns=["params_b", "blocks"]), how="left"
    )
    whole = whole_models(table)
    decode, batched = (
        LatencyModel(table, workload, calibration="paper")
        for workload in ("decode-8k", "throughput-32k")
    )
    estimates = [decode.estimate(presets()[name]) for name in rows["model"]]
    rows["latency_s"] = [round(e.latency_ms / 1000, 2) for e in estimates]
    rows["lower_s"] = [round(e.lower_ms / 1000, 1) for e in estimates]
    rows["upper_s"] = [round(e.upper_ms / 1000, 1) for e in estimates]
    found = fit(table, whole)
    for column, chosen in (
        ("left_out_error", ~found.rates),
        ("left_out_tok_s_error", found.rates),
    ):
        left_out = dict(zip(whole["model"][chosen], found.left_out[chosen], strict=True))
        rows[column] = [round(left_out.get(name, np.nan), 3) for name in rows["model"]]
    estimates = [batched.estimate(presets()[name]) for name in rows["model"]]
    rows["batch_32k"] = [e.batch for e in estimates]
    rows["tok_s_32k"] = [round(e.throughput_tok_s) for e in estimates]
    rows["tok_s_32k_with_prefill"] = [round(e.batch * 256 / e.latency_ms * 1000) for e in estimates]
    return rows


def summary(rows: pd.DataFrame) -> str:
    lines = []
    for text, error, measured in (
        ("decode-8k", "left_out_error", "latency_8k_s"),
        ("throughput-32k", "left_out_tok_s_error", "throughput_32k_tok_s"),
    ):
        known = rows.dropna(subset=measured)
        ranks = (known[measured] * (1 + known[error])).corr(known[measured], "spearman")
        lines.append(
            f"{text}: left-out error mean {known[error].abs().mean():.1%}, max"
            f" {known[error].abs().max():.1%}, Spearman {ranks:.2f}"
        )
    known = rows.dropna(subset="throughput_32k_tok_s")
    for column, text in (
        ("", "all models in the fit"),
        ("_with_prefill", "256 tokens with their prefill"),
    ):
        told, seen = known[f"tok_s_32k{column}"], known["throughput_32k_tok_s"]
        ratio = told / seen
        lines.append(
            f"throughput-32k, {text}: predicted / measured {ratio.min():.2f} to {ratio.max():.2f}"
            f" (geometric mean {np.exp(np.log(ratio).mean()):.2f}), Spearman"
            f" {told.corr(seen, 'spearman'):.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    rows = predictions(LatencyTable.load("h100_sxm"))
    rows.to_csv(HERE / "results.csv", index=False)
    shown = ["model", "latency_8k_s", "latency_s", "left_out_error"]
    shown += ["throughput_32k_tok_s", "batch_32k", "tok_s_32k"]
    print(rows[shown].to_string(index=False))
    print(summary(rows))


if __name__ == "__main__":
    main()
