"""Search by parameters against search by latency (arXiv 2511.18890, table 2). See README.md.

    python experiments/paper/search_by.py           # eight searches: 2.5 minutes of one core
    python experiments/paper/search_by.py --draw    # search_by.png of search_by.csv; seconds

For each size: the best network within so many parameters, then the best one within the latency of
that network.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
from picture import framed, still

import flashnas as fn
from flashnas.reporting.drawing import operator_colour, operator_label

HERE = Path(__file__).parent
CSV, PNG = HERE / "search_by.csv", HERE / "search_by.png"
SIZES, SEEDS = (500e6, 1000e6), (0, 1)
TRAIN_TOKENS = 1e11
KINDS = ("a", "d", "m2", "f")


def recommended(metric: str, budget: float, seed: int, folder: Path) -> fn.Architecture:
    """What `flashnas search --trials 0` recommends within a budget on one metric."""
    run = fn.search(
        space="nemotron_flash",
        table="h100_sxm",
        workload="decode-8k",
        calibration="paper",
        budgets={metric: budget},
        objectives=("loss", metric),
        trials=0,
        seed=seed,
        measure=False,
        out=folder / f"{metric}-{budget:.0f}-{seed}",
    )
    network: fn.Architecture = next(
        entry.architecture for entry in run.front if entry.hash == run.answer.recommended
    )
    return network


def search_all(folder: Path) -> pd.DataFrame:
    """A row for each recommended network."""
    rows = []
    for size in SIZES:
        for seed in SEEDS:
            network, budget = recommended("params", size, seed, folder), size
            for metric in ("params", "latency_ms"):
                if metric == "latency_ms":
                    budget = fn.estimate(network, table="h100_sxm", calibration="paper").latency_ms
                    network = recommended(metric, budget, seed, folder)
                rows.append(
                    {
                        "size": int(size),
                        "search_by": metric,
                        "budget": round(budget, 1),
                        "seed": seed,
                        "notation": network.notation,
                        **described(network),
                    }
                )
    return with_differences(pd.DataFrame(rows))


def described(network: fn.Architecture) -> dict[str, float]:
    """Sizes, counts of operators and the latency of a network."""
    counts = Counter(spec.kind for spec in network.operators)
    estimate = fn.estimate(network, table="h100_sxm", calibration="paper")
    return {
        "hidden": network.hidden,
        "operators": len(network.operators),
        **{kind: counts[kind] for kind in KINDS},
        "params": network.params,
        "latency_ms": round(estimate.latency_ms, 1),
        "recall": round(estimate.recall, 3),
    }


def with_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds the full loss to expect of each network, less that of the search by parameters of its
    size and seed.
    """
    networks = [fn.Architecture.parse(text) for text in rows["notation"]]
    expected = fn.loss_model().predict_networks(networks, TRAIN_TOKENS)
    base = {
        (row.size, row.seed): place
        for place, row in enumerate(rows.itertuples(index=False))
        if row.search_by == "params"
    }
    pairs = [
        expected.difference(place, base[row.size, row.seed])
        for place, row in enumerate(rows.itertuples(index=False))
    ]
    return rows.assign(
        difference=[round(mean, 3) for mean, _ in pairs], sd=[round(sd, 3) for _, sd in pairs]
    )


def draw(rows: pd.DataFrame) -> None:
    """The operators of each network as a row of boxes, with its sizes beside it."""
    with still(
        PNG,
        (11.0, 1.3 + 0.42 * len(rows)),
        "What is recommended by parameters, and what by latency",
        "Above: within so many parameters. Below: within the latency of the one above. H100,"
        " decode-8k.",
    ) as figure:
        axes = framed(figure, (0.165, 0.14, 0.51, 0.72))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for place, row in enumerate(rows.itertuples()):
            for column, spec in enumerate(fn.Architecture.parse(row.notation).operators):
                axes.barh(-place, 0.86, left=column, height=0.7, color=operator_colour(spec.kind))
            text = f"{row.hidden} wide, {row.params / 1e6:,.0f}M, {row.latency_ms / 1e3:.1f} s" + (
                "" if row.search_by == "params" else f", loss {row.difference:+.3f} ± {row.sd:.3f}"
            )
            axes.text(31, -place, text, va="center", fontsize=9)
        axes.set_yticks(
            -pd.RangeIndex(len(rows)).to_numpy(),
            [
                f"{'latency' if by == 'latency_ms' else f'{size / 1e6:.0f}M params'}, seed {seed}"
                for size, by, seed in zip(
                    rows["size"], rows["search_by"], rows["seed"], strict=True
                )
            ],
        )
        axes.set(xlim=(0, 30), xticks=())
        for kind in KINDS:
            axes.barh(0, 0, color=operator_colour(kind), label=operator_label(kind))
        axes.legend(
            frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(-0.02, 0.0), fontsize=9
        )


def main() -> None:
    """Search unless --draw is given, print the table and draw it."""
    if "--draw" not in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            search_all(Path(folder)).to_csv(CSV, index=False)
    rows = pd.read_csv(CSV)
    print(rows.drop(columns="budget").to_string(index=False, max_colwidth=70))
    draw(rows)


if __name__ == "__main__":
    main()
