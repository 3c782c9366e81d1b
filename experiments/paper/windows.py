"""Full against window attention in Nemotron-Flash-3B (arXiv 2511.18890, table 8). See README.md.

python experiments/paper/windows.py     # seconds; predicts, and trains and times nothing
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from picture import framed, still

import flashnas as fn
from flashnas.report.drawing import SERIES

HERE = Path(__file__).parent
CSV, PNG = HERE / "windows.csv", HERE / "windows.png"
TABLE = "h100_sxm"
PUBLISHED = {
    ("3 full", 0): 1.0,
    ("2 full, 1 window", 8192): 1.27,
    ("1 full, 2 windows", 8192): 1.58,
}


def arms() -> pd.DataFrame:
    """A row for 3, 2, 1 and 0 full attentions of three, the others with a window of so many
    tokens.
    """
    base = fn.load_architecture("Nemotron-Flash-3B")
    places = [place for place, spec in enumerate(base.operators) if spec.kind == "a"]
    rows = []
    for window in (8192, 2048, 512):
        windowed = fn.Architecture.parse(f"{base.hidden}: swa(window={window})").operators[0]
        for count, name in enumerate(
            ("3 full", "2 full, 1 window", "1 full, 2 windows", "3 windows")
        ):
            operators = list(base.operators)
            for place in places[::-1][:count]:  # the last ones
                operators[place] = windowed
            if count or window == 8192:
                network = replace(base, operators=tuple(operators))
                busy = fn.estimate(
                    network, table=TABLE, workload="throughput-32k", calibration="paper"
                )
                rows.append(
                    {
                        "attention": name,
                        "window": window if count else 0,
                        "batch_32k": busy.batch,
                        "throughput_tok_s": round(busy.throughput_tok_s),
                        "latency_8k_s": round(
                            fn.estimate(network, table=TABLE, calibration="paper").latency_ms / 1e3,
                            2,
                        ),
                        "expected_recall": round(busy.recall, 3),
                        "recall_sd": round(busy.recall_sd, 3),
                    }
                )
    table = pd.DataFrame(rows)
    return table.assign(
        throughput_ratio=(table["throughput_tok_s"] / table["throughput_tok_s"][0]).round(2),
        latency_ratio=(table["latency_8k_s"] / table["latency_8k_s"][0]).round(3),
        published_ratio=[
            PUBLISHED.get(key) for key in zip(table["attention"], table["window"], strict=True)
        ],
    )


def draw(table: pd.DataFrame) -> None:
    """Throughput at 32k over the number of windows, by window, and as published."""
    with still(
        PNG,
        (7.0, 4.8),
        "What windows gain in Nemotron-Flash-3B",
        "Tokens per second after 32k tokens, largest batch that fits an H100, predicted.",
    ) as figure:
        axes = framed(figure, (0.11, 0.13, 0.85, 0.69))
        for colour, window in zip(SERIES, (8192, 2048, 512), strict=False):
            part = table[table["window"].isin((0, window))]
            axes.plot(
                range(4),
                part["throughput_ratio"],
                "o-",
                color=colour,
                label=f"windows of {window:,}",
            )
        axes.plot(
            range(3),
            [*PUBLISHED.values()],
            "ks",
            markersize=8,
            fillstyle="none",
            label="paper, windows of 8k",
        )
        axes.set_xticks(
            range(4), ["3 full", "2 full,\n1 window", "1 full,\n2 windows", "3 windows"]
        )
        axes.set_yscale("log", base=2)
        axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axes.set(ylabel="throughput, 3 full attentions = 1")
        axes.legend(frameon=False)


def main() -> None:
    """Write windows.csv and windows.png and print the table."""
    table = arms()
    table.to_csv(CSV, index=False)
    print(table.to_string(index=False))
    draw(table)


if __name__ == "__main__":
    main()
