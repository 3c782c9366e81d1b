"""Loss against latency, operator by operator (arXiv 2511.18890, figures 4a and 4b). See README.md.

    python experiments/paper/operators.py     # seconds; trains and times nothing

The 15 mixes of tables 1 and 10: published perplexity after 100B tokens, the loss of the short
trainings of the shipped bench, and the latencies that the shipped tables predict.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import flashnas as fn
from flashnas.report.drawing import INK, MUTED, operator_colour
from flashnas.search.objectives import non_dominated

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "bench_tables" / "cpu" / "bench.parquet"
CSV, PNG = HERE / "operators.csv", HERE / "operators.png"
GROUP = "nf_500m_100b"
# of labels that others would cover, in points from their dots
PLACES = {"gd+a": (-28, -14), "d+a": (2, -14), "searched": (-20, 12), "gla+a": (-40, 4)}
TABLES = ("h100_sxm", "a100_sxm")


def published(group: str) -> pd.DataFrame:
    """The trainings of the bench of the networks of a published group."""
    frame = pd.read_parquet(BENCH)
    return frame[frame["origin"] == f"published:{group}"]


def mixes() -> pd.DataFrame:
    """A row for each published mix; `front_*` says whether no other one is better in loss and H100
    latency.
    """
    others = fn.evidence.load().trainings
    others = others[others["group"] == GROUP]
    perplexity = {
        kinds_of(f"1024: {row.operators}"): (row.operators, row.value)
        for row in others.itertuples()
    }
    bench = published(GROUP)
    rows = []
    for notation, trainings in bench.groupby("architecture", sort=False):
        operators, value = perplexity[kinds_of(notation)]
        first = trainings.sort_values("seed").iloc[0]
        rows.append(
            {
                "mix": operators,
                "perplexity": value,
                "published_loss": round(float(np.log(value)), 4),
                "short_loss": round(trainings["loss"].mean(), 4),
                "seeds": len(trainings),
                **{
                    f"{table}_s": round(first[f"latency_ms/{table}/decode-8k"] / 1e3, 2)
                    for table in TABLES
                },
                "params": first["params"],
                "curve": " ".join(f"{loss:.3f}" for _, loss in first["curve"]),
            }
        )
    table = pd.DataFrame(rows)
    for loss in ("published_loss", "short_loss"):
        table[f"front_{loss}"] = non_dominated(table[["h100_sxm_s", loss]].to_numpy())
    return table


def kinds_of(notation: str) -> tuple[str, ...]:
    """The kinds of the operators in order, whatever their sizes."""
    return tuple(spec.kind for spec in fn.Architecture.parse(notation).operators)


def label(mix: str) -> str:
    """The mixers of a mix: `d+m2` for `8x(d m2 f)`, `searched` for the paper's own network."""
    mixers = dict.fromkeys(kind for kind in kinds_of(f"1024: {mix}") if kind != "f")
    return "+".join(mixers) if mix.count(" ") < 5 else "searched"


def draw_front(axes: Any, table: pd.DataFrame, loss: str, text: str) -> None:
    """Points by mixer, and the front as a line."""
    for row in table.itertuples():
        kinds = label(row.mix).split("+")
        x, y = row.h100_sxm_s, getattr(row, loss)
        axes.plot(
            x,
            y,
            "o",
            color=operator_colour(kinds[0]),
            markersize=9 if len(kinds) == 1 else 7,
            markeredgecolor=operator_colour(kinds[-1]),
            markeredgewidth=2,
        )
        axes.annotate(
            "+".join(kinds),
            (x, y),
            xytext=PLACES.get("+".join(kinds), (7, 4)),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )
    front = table[table[f"front_{loss}"]].sort_values("h100_sxm_s")
    axes.plot(front["h100_sxm_s"], front[loss], color=MUTED, linewidth=1, zorder=0)
    axes.set(xlabel="predicted for 8192 tokens on an H100 (s)", ylabel=text)
    axes.margins(x=0.12)


def draw(table: pd.DataFrame, tokens: list[int]) -> None:
    """Figure 4b with published and with short losses, and figure 4a with the curves of the
    bench.
    """
    from picture import framed, still  # matplotlib, which the table does not need

    with still(
        PNG,
        (15.0, 5.4),
        "Loss against latency by operator",
        "15 mixes of 500M parameters (arXiv 2511.18890,"
        " tables 1 and 10). Lines: no other mix is better in both.",
    ) as figure:
        draw_front(
            framed(figure, (0.045, 0.12, 0.28, 0.72)),
            table,
            "published_loss",
            "published loss after 100B tokens (nats per token)",
        )
        draw_front(
            framed(figure, (0.375, 0.12, 0.28, 0.72)),
            table,
            "short_loss",
            "loss after 262,144 tokens, widths / 32",
        )
        axes = framed(figure, (0.705, 0.12, 0.28, 0.72))
        for row in table.itertuples():
            if "+" not in label(row.mix) and label(row.mix) != "searched":
                axes.plot(
                    tokens,
                    [float(loss) for loss in row.curve.split()],
                    "o-",
                    markersize=4,
                    color=operator_colour(label(row.mix)),
                    label=label(row.mix),
                )
        axes.set_xticks(tokens, [f"{count:,}" for count in tokens], fontsize=9)
        axes.set(xlabel="training tokens", ylabel="validation loss (nats per token)")
        axes.legend(frameon=False, title="pure stacks, seed 0")


def main() -> None:
    """Write operators.csv and operators.png and print the table."""
    table = mixes()
    table.to_csv(CSV, index=False)
    print(table.drop(columns="curve").to_string(index=False, max_colwidth=40))
    pairs = table[["published_loss", "short_loss", "h100_sxm_s", "a100_sxm_s"]]
    print("Spearman", pairs.corr("spearman").round(2).to_string(), sep="\n")
    equal = published("nf_latency_100b")
    equal = equal[equal["seed"] == 0]
    print("table 3: kinds, parameters, predicted seconds on an A100")
    for row in equal.to_dict("records"):
        print(
            f"{' '.join(dict.fromkeys(kinds_of(row['architecture']))):<10}"
            f" {row['params'] / 1e6:5.0f}M"
            f" {row['latency_ms/a100_sxm/decode-8k'] / 1e3:6.2f}"
        )
    draw(table, [count for count, _ in published(GROUP)["curve"].iloc[0]])


if __name__ == "__main__":
    main()
