"""Full against window attention in Nemotron-Flash-3B (arXiv 2511.18890, table 8). See README.md.

python experiments/paper/windows.py     # windows.csv; seconds; predicts, and trains and times nothing
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

import flashnas as fn


def arms() -> pd.DataFrame:
    """A row for 3, 2, 1 and 0 full attentions, the last ones replaced by windows."""
    base = fn.load_architecture("Nemotron-Flash-3B")
    places = [place for place, spec in enumerate(base.operators) if spec.kind == "a"]
    rows = []
    for window in (8192, 2048, 512):
        windowed = fn.Architecture.parse(f"{base.hidden}: swa(window={window})").operators[0]
        operators = list(base.operators)
        for count, place in enumerate([None, *reversed(places)]):
            if place is not None:
                operators[place] = windowed
            network = replace(base, operators=tuple(operators))
            busy, alone = (
                fn.estimate(network, table="h100_sxm", workload=workload, calibration="paper")
                for workload in ("throughput-32k", "decode-8k")
            )
            rows.append(
                {
                    "window": window,
                    "windows": count,
                    "batch_32k": busy.batch,
                    "throughput_tok_s": round(busy.throughput_tok_s),
                    "latency_8k_s": round(alone.latency_ms / 1e3, 2),
                    "expected_recall": round(busy.recall, 3),
                    "recall_sd": round(busy.recall_sd, 3),
                }
            )
    table = pd.DataFrame(rows)
    ratio = table["throughput_tok_s"] / table["throughput_tok_s"][0]
    return table.assign(throughput_ratio=ratio.round(2))


if __name__ == "__main__":
    table = arms()
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))
