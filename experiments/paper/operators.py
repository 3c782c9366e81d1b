"""Loss against latency, operator by operator (arXiv 2511.18890, figure 4b). See README.md.

    python experiments/paper/operators.py     # seconds; predicts, and trains and times nothing

operators.csv has the 15 mixes of tables 1 and 10 as networks of about 500M parameters, with their
published perplexity after 100B tokens and the loss of short trainings. The latencies of 8192 tokens
are predicted anew.
"""

import math
from pathlib import Path

import pandas as pd

import flashnas as fn

CSV = Path(__file__).with_name("operators.csv")
TABLES = ("h100_sxm", "a100_sxm")
LOSSES = ("published_loss", "short_loss")


def mixes() -> pd.DataFrame:
    """The rows, the fastest first; `front_*`: no faster mix has as low a loss."""
    rows = pd.read_csv(CSV)
    for table in TABLES:
        estimates = [
            fn.estimate(network, table=table, calibration="paper") for network in rows["network"]
        ]
        rows[f"{table}_s"] = [round(estimate.latency_ms / 1e3, 2) for estimate in estimates]
    rows = rows.sort_values("h100_sxm_s")
    for loss in LOSSES:
        rows[f"front_{loss}"] = rows[loss] < rows[loss].cummin().shift(fill_value=math.inf)
    return rows


if __name__ == "__main__":
    table = mixes()
    print(table.drop(columns=["network", "curve"]).to_string(index=False, max_colwidth=40))
    figures = [*LOSSES, *(f"{name}_s" for name in TABLES)]
    print("Spearman", table[figures].corr("spearman").round(2).to_string(), sep="\n")
