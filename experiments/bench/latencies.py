"""Do parameters, or predictions for GPUs, order the networks of the bench as a CPU does?

python experiments/bench/latencies.py     # reads the shipped bench; seconds
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

BENCH = Path(__file__).parents[2] / "bench_tables" / "cpu" / "bench.parquet"
WORKLOAD = "batch=1,prompt=64,generated=64"


def main() -> None:
    """Print Spearman's rank correlations with the measured times."""
    frame = pd.read_parquet(BENCH).drop_duplicates("architecture")
    step, prompt = frame[f"measured_tpot_ms/{WORKLOAD}"], frame[f"measured_ttft_ms/{WORKLOAD}"]
    print(
        f"{step.notna().sum()} networks of {frame['params'].min():,} to {frame['params'].max():,}"
        " parameters;"
        f" one thread, {step.min():.1f} to {step.max():.0f} ms a step"
    )
    print("Spearman with              networks  step  prompt")
    for name in ("params", *(column for column in frame if column.startswith("latency_ms/"))):
        both = frame[name].notna()
        print(
            f"{name:<30} {both.sum():>5} {frame[name].corr(step, method='spearman'):.2f}"
            f"  {frame[name].corr(prompt, method='spearman'):.2f}"
        )
    large = frame[frame["params"] > 1e8]
    ms = large[f"measured_tpot_ms/{WORKLOAD}"] / large["params"] * 1e9
    print(
        f"a step of networks of more than 100 million parameters: {ms.min():.0f} to {ms.max():.0f}"
        " ms per billion of"
        f" them, quartiles {ms.quantile(0.25):.0f} and {ms.quantile(0.75):.0f}"
    )


if __name__ == "__main__":
    main()
