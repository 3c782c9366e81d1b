"""The table and picture of benchmarks/search.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from search_methods import METHODS
from search_problems import PROBLEMS, curve_model, held_out

SHARES = {"1/5": 0.2, "1/2": 0.5, "all": 1.0}
PAPER = "aging-evolution"
FEWEST = 5  # seeds of a method that is shown; the slow ones have no more


def regrets(
    lines: Sequence[Mapping[str, Any]], problem: str, seeds: int = 1
) -> dict[str, np.ndarray]:
    """Of each method with so many seeds, [seeds, trainings], ordered by the median over all
    budgets.
    """
    volumes: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for line in lines:
        if line["problem"] == problem:
            volumes[line["method"]][line["seed"]] = line["volumes"]
    fronts = volumes.pop("front", {})
    found = {}
    for name, of_seed in volumes.items():
        rows = []
        for seed, reached in sorted(of_seed.items()):
            best = fronts[seed if seed in fronts else 0][0]
            best = max(best, *(other[seed][-1] for other in volumes.values() if seed in other))
            rows.append(1 - np.array(reached) / best)
        if len(rows) >= seeds:
            found[name] = np.array(rows)
    return dict(sorted(found.items(), key=lambda item: float(np.median(item[1], axis=0).mean())))


def tokens_to(regret: np.ndarray, target: float) -> float | None:
    """Share of all tokens after which the median regret is at most the target; None if it never
    is.
    """
    reached = np.flatnonzero(np.median(regret, axis=0) <= target)
    return float(reached[0] + 1) / regret.shape[1] if len(reached) else None


def table(found: Mapping[str, np.ndarray], ours: Sequence[str]) -> str:
    """Median and quartiles of the regret in percent, tokens to equal hypervolume, and how often
    random is better.
    """
    medians = {name: float(np.median(rows[:, -1])) for name, rows in found.items()}
    peers = [name for name in found if name not in ours]
    best_peer = (
        min(peers, key=medians.__getitem__) if peers else None
    )  # of equals, the first of the table
    random = np.median(found["random"], axis=0) if "random" in found else None
    head = [
        "method",
        "seeds",
        *(f"at {share}" for share in SHARES),
        f"tokens to {PAPER}",
        f"tokens to {best_peer or 'best peer'}",
        "worse than random",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name, rows in found.items():
        cells = [f"**{name}**" if name in ours else name, str(len(rows))]
        for share in SHARES.values():
            low, middle, high = 100 * np.percentile(
                rows[:, max(round(share * rows.shape[1]), 1) - 1], [25, 50, 75]
            )
            cells.append(f"{middle:.1f} [{low:.1f}, {high:.1f}]")
        for target in (PAPER, best_peer):
            share = tokens_to(rows, medians[target]) if target in medians else None
            cells.append("never" if share is None else f"{100 * share:.0f}%")
        if random is not None:
            worse = np.median(rows, axis=0) > random + 1e-9
            cells.append(
                "-" if name == "random" else f"{100 * worse.mean():.0f}%" if worse.any() else "no"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(
    all_found: Mapping[str, Mapping[str, np.ndarray]], ours: Sequence[str], path: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (4.5 * len(all_found), 6)
    figure, axes = plt.subplots(1, len(all_found), figsize=size, squeeze=False, sharey=True)
    colours = dict(zip(METHODS, plt.get_cmap("tab20").colors, strict=False))
    for axis, (problem, found) in zip(axes[0], all_found.items(), strict=True):
        for name, rows in found.items():
            tokens = 100 * np.arange(1, rows.shape[1] + 1) / rows.shape[1]
            low, middle, high = 100 * np.percentile(rows, [25, 50, 75], axis=0)
            axis.plot(
                tokens,
                middle,
                label=name,
                color=colours[name],
                lw=2.2 if name in ours else 1.2,
                ls="-" if name in ours else "--",
            )
            if name in (PAPER, "bayes", "random"):
                axis.fill_between(tokens, low, high, color=colours[name], alpha=0.12, lw=0)
        axis.set(title=problem, xlabel="share of all tokens (%)", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("hypervolume regret (%), median")
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_report(
    lines: Sequence[Mapping[str, Any]],
    folder: Path,
    trainings: Mapping[str, int],
    seeds: int,
    source: str | None,
) -> str:
    """Write search.md and search.png of the methods that have enough seeds; returns the text."""
    ours = [name for name, method in METHODS.items() if method.ours]
    all_found, parts = {}, []
    for problem in PROBLEMS:
        found = regrets(lines, problem, min(seeds, FEWEST))
        if not found:
            continue
        all_found[problem] = found
        text = f"### {problem}: {PROBLEMS[problem]}; {trainings[problem]} whole trainings\n\n"
        if problem == "model":
            check = held_out(source)
            text += (
                f"Held-out networks: R2 {check['r2'][-1]:.2f}, Spearman {check['spearman'][-1]:.2f}"
                " at the end"
                f" ({', '.join(f'{value:.2f}' for value in check['spearman'][:-1])} at the earlier"
                " points)."
                f" Noise between seeds {curve_model(source)[1]:.4f} nats.\n\n"
            )
        seconds = defaultdict(list)
        for line in lines:
            if line["problem"] == problem and line["method"] in found:
                seconds[line["method"]].append(line["cpu_seconds"])
        text += table(found, ours) + "\n\nCPU seconds of one search: "
        text += (
            ", ".join(f"{name} {np.median(values):.1f}" for name, values in seconds.items()) + "."
        )
        missing = [name for name in METHODS if name not in found]
        parts.append(text + (f" Not run: {', '.join(missing)}." if missing else ""))
    picture(all_found, ours, folder / "search.png")
    report = "\n\n".join(parts) + "\n"
    (folder / "search.md").write_text(report, encoding="utf-8")
    return report
