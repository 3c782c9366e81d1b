"""The trajectory of a search (arXiv 2511.18890, figure 5): best loss and hypervolume over
trainings. See README.md.

    python experiments/paper/trajectory.py     # under a minute; trains nothing: the shipped bench
    answers

The problem `rows` of benchmarks/search_problems.py: the networks of the shipped bench with their
real losses, within 18 s for 8192 tokens on an H100. Each search may train 60 of them; 20 seeds of
what the sampler draws.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from picture import framed, still

from flashnas.report.drawing import MUTED, SERIES

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "benchmarks"))
from search_methods import RUNGS, Meter, Spent, ours  # noqa: E402
from search_problems import Problem, make_problem  # noqa: E402

CSV, PNG = HERE / "trajectory.csv", HERE / "trajectory.png"
SAMPLERS = ("aging-evolution", "bayes", "random")
TRAININGS, SEEDS = 60, 20
COLUMNS = {
    "best_loss": "lowest loss so far (nats per token)",
    "volume": "hypervolume, share of the true front's",
}


def trajectory(problem: Problem, sampler: str, seed: int) -> pd.DataFrame:
    """Best loss and share of the true front's hypervolume after 1, 2, .. trainings."""
    meter = Meter(problem, seed, TRAININGS)
    with contextlib.suppress(Spent):
        ours(sampler)(meter)
    losses = np.full(TRAININGS, np.inf)
    for tokens, genotype in meter.finished:
        losses[tokens // RUNGS - 1] = problem.truth([genotype])[0]
    return pd.DataFrame(
        {
            "sampler": sampler,
            "seed": seed,
            "trainings": np.arange(1, TRAININGS + 1),
            "best_loss": np.minimum.accumulate(losses).round(4),
            "volume": np.round(np.array(meter.volumes()) / problem.best_volume(), 4),
        }
    )


def quartiles(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each sampler and number of trainings: quartiles of both figures over the seeds."""
    parts = (
        table.groupby(["sampler", "trainings"])[list(COLUMNS)].quantile([0.25, 0.5, 0.75]).unstack()
    )
    parts.columns = [f"{column}_{round(100 * share)}" for column, share in parts.columns]
    return parts.round(4).reset_index()


def first_as_good(rows: pd.DataFrame, column: str, sampler: str, other: str) -> float:
    """Trainings after which the median of `sampler` is as good as that of `other` at the end."""
    medians = rows.pivot(index="trainings", columns="sampler", values=f"{column}_50")
    sign = 1 if column == "best_loss" else -1
    good = medians.index[sign * medians[sampler] <= sign * medians[other].iloc[-1]]
    return float(good[0]) if len(good) else float("nan")


def draw(rows: pd.DataFrame) -> None:
    """Medians with the middle half of the seeds."""
    with still(
        PNG,
        (11.0, 4.8),
        "What a search has after so many trainings",
        f"Networks of the shipped bench; lines: median of {SEEDS} seeds, bands: the middle half.",
    ) as figure:
        for place, (column, text) in enumerate(COLUMNS.items()):
            axes = framed(figure, (0.075 + 0.5 * place, 0.13, 0.40, 0.69))
            for colour, (sampler, part) in zip(
                (*SERIES[:2], MUTED), rows.groupby("sampler"), strict=True
            ):
                axes.fill_between(
                    part["trainings"],
                    part[f"{column}_25"],
                    part[f"{column}_75"],
                    alpha=0.15,
                    color=colour,
                    linewidth=0,
                )
                axes.plot(
                    part["trainings"],
                    part[f"{column}_50"],
                    label=sampler,
                    linewidth=2,
                    color=colour,
                )
            axes.set(xlabel="trainings", ylabel=text, xlim=(1, TRAININGS))
            axes.legend(frameon=False)


def main() -> None:
    """Run all searches, write trajectory.csv and trajectory.png, and print medians."""
    problem = make_problem("rows", 0, None)
    rows = quartiles(
        pd.concat(
            [trajectory(problem, sampler, seed) for sampler in SAMPLERS for seed in range(SEEDS)]
        )
    )
    rows.to_csv(CSV, index=False)
    print(rows[rows["trainings"].isin((5, 10, 20, 30, 60))].round(3).to_string(index=False))
    for column in COLUMNS:
        print(
            f"bayes has the final {column} of aging-evolution after"
            f" {first_as_good(rows, column, 'bayes', 'aging-evolution'):.0f} trainings"
        )
    draw(rows)


if __name__ == "__main__":
    main()
