"""List published conversions of pretrained models: which layers kept attention, and what came of it.

    python experiments/convert/published.py      # a second

Expected: 83 rows of 3 publications. Where a selector stands beside even spacing, it is better in
most comparisons. They do not show error bars (each layout was trained once), how a selector orders
layouts that it did not choose, milliseconds, and removal without training.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ROWS = Path(__file__).with_name("published_conversions.csv")
GROUP = ["publication", "teacher", "recipe", "tokens", "metric"]
EVEN = "even", "uniform"  # names of layouts
SELECTED = "selection", "GA-", "GR-", "AVG-", "AR ", "SMART"


def gains(rows: pd.DataFrame) -> pd.Series:
    """Of each selector on each metric: its value less that of even spacing, as a share of the best
    value."""
    found = []
    for _, group in rows.groupby(GROUP, sort=False):
        layouts = group["layout"]
        even = group[layouts.str.startswith(EVEN) & ~layouts.str.contains("half")]
        selected = group[layouts.map(lambda name: any(word in name for word in SELECTED))]
        if len(even):
            found.append((selected["value"] - even["value"].iloc[0]) / group["value"].max())
    return pd.concat(found)


if __name__ == "__main__":
    rows = pd.read_csv(ROWS, dtype={"tokens": str})
    for names, group in rows.groupby(GROUP, sort=False):
        print(", ".join(names))
        best_first = group.sort_values("value", ascending=False)
        print(best_first[["layout", "kept_attention_layers", "value"]].to_string(index=False))
    found = gains(rows)
    print(
        f"a selector is better than even spacing in {(found > 0).sum()} of {len(found)} comparisons,"
        f" by {100 * found.median():.0f} % of the best value in the middle"
    )
