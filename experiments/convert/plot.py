"""KL over the share of the model's time: predicted, measured, evenly spaced and at random.

python experiments/convert/plot.py            # seconds; reads results/seed*_attention.json
python experiments/convert/plot.py engine     # of the default calibration: seed*_attention_engine.json

Both write kl.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

HERE = Path(__file__).parent
CHOSEN, OTHER = "#D55E00", "#0072B2"  # colours
KL_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
REFUSED = 0.5  # nats; the default of --max-kl
MARKERS = {"evenly spaced": ("s", "black"), "at random": ("x", "grey")}


def main() -> None:
    """Draw kl.png, a panel for each draw."""
    calibration = "".join(f"_{name}" for name in sys.argv[1:])
    files = sorted((HERE / "results").glob(f"seed*_attention{calibration}.json"))
    figure, panels = plt.subplots(
        1,
        len(files),
        figsize=(4 * len(files), 4.2),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for panel, file in zip(panels[0], files, strict=True):
        found = json.loads(file.read_text())
        inside = sum(entry["inside"] for entry in found["finalists"])
        draw_panel(panel, found)
        panel.set(
            yscale="log",
            xlabel="share of the model's time, %",
            title=f"draw {file.name[4]}: {inside} of {len(found['finalists'])} inside",
        )
        panel.set_yticks(KL_TICKS, labels=map(str, KL_TICKS))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.axhline(REFUSED, color="grey", linestyle="--", linewidth=0.8)
        panel.invert_xaxis()
    panels[0][0].set_ylabel("KL to the model on fresh text, nats/token")
    for label, colour, marker in (
        ("choice for a budget", CHOSEN, "o"),
        ("other finalist", OTHER, "o"),
        ("as many layers, evenly spaced", "black", "s"),
        ("as many layers, at random", "grey", "x"),
    ):
        panels[0][0].plot([], [], marker, color=colour, label=label)
    panels[0][0].plot([], [], color=OTHER, alpha=0.35, linewidth=6, label="predicted, 90 %")
    panels[0][0].plot([], [], "--", color="grey", linewidth=0.8, label="refused above this")
    panels[0][0].legend(fontsize=8)
    figure.savefig(HERE / "kl.png", dpi=120)


def draw_panel(panel: plt.Axes, found: dict) -> None:
    """Finalists and other placements of one draw."""
    for entry in found["finalists"]:
        share, predicted = 100 * entry["share"], entry["predicted"]
        colour = CHOSEN if entry["answers_a_budget"] else OTHER
        interval = [predicted["kl_low"], predicted["kl_high"]]
        panel.plot([share, share], interval, color=colour, alpha=0.35, linewidth=6)
        panel.errorbar(share, entry["kl"], entry["kl_half"], color=colour, marker="o", capsize=3)
    for answer in found["answers"]:
        share = 100 * answer["latency_ms"] / found["model_ms"]
        for other in answer["others"]:
            if other["placement"] in MARKERS:
                marker, colour = MARKERS[other["placement"]]
                panel.plot(share, other["kl"], marker, color=colour)


if __name__ == "__main__":
    main()
