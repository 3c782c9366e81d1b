"""What training does: KL of six layouts before and after healing, and Gated DeltaNet against removal.

python experiments/convert/plot_training.py    # reads heal.jsonl and blocks.jsonl of results/
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

HERE = Path(__file__).parent
KINDS = {"chosen": ("#D55E00", "o"), "random": ("grey", "X"), "even": ("black", "s")}
SAVED_MS = {"gd": 176, "none": 552}  # of a layer, h100_sxm, decode-8k, as convert.py prints it
SHADES = ("#56B4E9", "#0072B2")  # fewer tokens, more tokens


def main() -> None:
    """Draw training.png."""
    figure, (healed, replaced) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    draw_healing(healed, read("heal.jsonl"))
    draw_replacements(replaced, read("blocks.jsonl"))
    figure.savefig(HERE / "training.png", dpi=120)


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / "results" / name).read_text().splitlines()]


def draw_healing(panel: plt.Axes, rows: list[dict]) -> None:
    """An arrow from before to after for each network."""
    budgets = sorted({row["name"].split(" ", 1)[1] for row in rows}, reverse=True)
    for row in rows:
        kind, budget = row["name"].split(" ", 1)
        colour, marker = KINDS[kind]
        x = budgets.index(budget) + 0.22 * (list(KINDS).index(kind) - 1)
        before, after = row["before"], row["after"]
        panel.plot([x, x], [before["kl"], after["kl"]], color=colour, alpha=0.4)
        panel.plot(x, before["kl"], marker, color=colour, fillstyle="none")
        panel.errorbar(x, after["kl"], after["kl_half"], color=colour, marker=marker, capsize=3)
    for kind, (colour, marker) in KINDS.items():
        panel.plot([], [], marker, color=colour, label=kind)
    panel.set(
        yscale="log",
        xticks=range(len(budgets)),
        xticklabels=[f"{budget} of the time" for budget in budgets],
        ylabel="KL to the model on held-out text, nats/token",
        title=f"before (open) and after {rows[0]['tokens']:,} tokens of healing",
    )
    panel.legend(fontsize=8)
    panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}")


def draw_replacements(panel: plt.Axes, rows: list[dict]) -> None:
    """KL of Gated DeltaNet over that of removal, layer by layer."""
    rows = [{**row, "layer": row["layers"][0]} for row in rows if len(row["layers"]) == 1]
    removed = {row["layer"]: row["kl"] for row in rows if row["change"] == "none"}
    ends = [min(removed.values()) / 1.3, max(removed.values()) * 1.3]
    changes = dict.fromkeys(row["change"] for row in rows if row["change"] != "none")
    for change, shade in zip(changes, SHADES, strict=False):
        points = [(removed[row["layer"]], row["kl"]) for row in rows if row["change"] == change]
        panel.plot(*zip(*points, strict=True), "o", color=shade, label=f"{change} tokens")
    share = SAVED_MS["gd"] / SAVED_MS["none"]
    panel.plot(ends, ends, color="grey", linewidth=1, label="as much KL")
    panel.plot(
        ends,
        [share * end for end in ends],
        "--",
        color="grey",
        linewidth=1,
        label="as much KL for a millisecond",
    )
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="KL without the attention of a layer, nats/token",
        ylabel="KL with Gated DeltaNet in its place",
        title="one layer changed",
    )
    panel.legend(fontsize=8)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")


if __name__ == "__main__":
    main()
