"""KL over the share of the model's time: predicted, measured, evenly spaced and at random.

python experiments/convert/plot.py    # seconds; reads results/h100.json, writes kl.png
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    """Draw kl.png."""
    found = json.loads((HERE / "results" / "h100.json").read_text())
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for entry in found["finalists"]:
        share, predicted = 100 * entry["share"], entry["predicted"]
        chosen = entry["answers_a_budget"]
        colour = "#D55E00" if chosen else "#0072B2"
        low, high = predicted["kl_low"], predicted["kl_high"]
        axes.plot([share, share], [low, high], color=colour, alpha=0.35, linewidth=6)
        axes.errorbar(share, entry["kl"], entry["kl_half"], color=colour, marker="o", capsize=3)
    for answer in found["answers"]:
        share = 100 * answer["latency_ms"] / found["model_ms"]
        axes.plot(share, answer["evenly_spaced"]["kl"], "s", color="black")
        for other in answer["at_random"]:
            axes.plot(share, other["kl"], "x", color="grey")
    for label, colour, marker in (
        ("choice for a budget, measured", "#D55E00", "o"),
        ("other finalist, measured", "#0072B2", "o"),
        ("as many layers, evenly spaced", "black", "s"),
        ("as many layers, at random", "grey", "x"),
    ):
        axes.plot([], [], marker, color=colour, label=label)
    axes.plot([], [], color="#0072B2", alpha=0.35, linewidth=6, label="predicted, 90 %")
    axes.set(
        yscale="log", xlabel="share of the model's time, %", ylabel="KL to the model, nats/token"
    )
    axes.invert_xaxis()
    axes.legend(fontsize=8)
    figure.savefig(HERE / "kl.png", dpi=120)


if __name__ == "__main__":
    main()
