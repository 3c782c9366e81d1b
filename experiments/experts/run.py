"""How well fused experts are predicted, and how long they take beside a dense FFN. See README.md.

python experiments/experts/run.py
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from flashnas.architecture import Architecture, parse_operators
from flashnas.latency.lookup import KernelTimes
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable, shipped_tables

COVERAGE = Path(__file__).parents[1] / "rule_coverage"
ATTENTION = "a(heads=32,kv_heads=8,head_dim=64,qk_norm=true)"
MOE = "moe(experts=32,active=4,intermediate=1792,sigmoid=true)"
LFM = (
    f"2048(vocab=65536): 2x(conv f(intermediate=7168)) {ATTENTION} {MOE}"
    f" 5x(3x(conv {MOE}) {ATTENTION} {MOE}) conv {MOE}"
)
PUBLISHED_MS = 2.40  # a token of LFM2.5-8B-A1B on the H100, SGLang, batch 1; no fit has seen it


def left_out(coverage, table: LatencyTable) -> pd.DataFrame:
    """Each row from those of other shapes, of other widths and of other numbers of tokens."""
    tokens = (test for test in coverage.between(table, "experts") if test.axis == "m")
    lines = pd.concat([coverage.run(test) for test in (*coverage.other_experts(table), *tokens)])
    lines = lines.assign(
        error=np.log(lines["ratio"]).abs(), inside=lines["lower"].le(1) & lines["upper"].ge(1)
    )
    return lines.groupby("rule", sort=False).agg({"error": "median", "inside": "mean"})


def beside_dense(table: LatencyTable, batch: int) -> np.ndarray:
    """10, 50 and 90 % over the published models of a layer's time, as a multiple of that of a dense
    FFN of the active size."""
    times, ratios = KernelTimes(table, "bfloat16"), []

    def layer_us(spec, hidden: int) -> float:
        calls = [call for call in spec.kernels(hidden, "decode") if not call.fusable]
        return sum(times.time(call, "decode", batch, np.ones(1)).us for call in calls)

    rows = table.frames["experts"]
    rows = rows[(rows["dtype"] == "bfloat16") & (rows["matrices"] == 3)]
    models = rows.groupby(["hidden", "experts", "active"], as_index=False)["inner"].max()
    for row in models.to_dict("records"):
        inner, active, hidden = (int(row[name]) for name in ("inner", "active", "hidden"))
        sparse, dense = parse_operators(
            f"moe(experts={row['experts']},active={active},intermediate={inner})"
            f" f(intermediate={inner * active})"
        )
        ratios.append(layer_us(sparse, hidden) / layer_us(dense, hidden))
    return np.quantile(ratios, [0.1, 0.5, 0.9]).round(2)


def main() -> None:
    sys.path.insert(0, str(COVERAGE))
    import run as coverage

    coverage.MOST = 100_000
    for name in sorted(shipped_tables()):
        table = LatencyTable.load(name)
        rows = table.frames["experts"]
        rows = rows[rows["dtype"] == "bfloat16"]
        print(f"{name}: {len(rows)} rows in bfloat16")
        table = replace(table, frames={**table.frames, "experts": rows})
        print(left_out(coverage, table).round(3).to_string(header=False))
    h100 = LatencyTable.load("h100_sxm")
    for batch in (1, 8, 64):
        print(f"batch {batch}: over a dense FFN (10, 50, 90 %): {beside_dense(h100, batch)}")
    model = LatencyModel(h100, "batch=1,prompt=1024,generated=1024")
    estimate = model.estimate(Architecture.parse(LFM))
    lower, upper = estimate.bounds["tpot_ms"]
    print(
        f"LFM2.5-8B-A1B: {estimate.tpot_ms:.2f} ms ({lower:.2f} to {upper:.2f}),"
        f" published {PUBLISHED_MS:.2f}: {estimate.tpot_ms / PUBLISHED_MS - 1:+.0%}"
    )


if __name__ == "__main__":
    main()
