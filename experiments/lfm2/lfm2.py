"""A search among LFM2's operators within a budget of milliseconds a token in llama.cpp, beside
LFM2's own order.

    python experiments/lfm2/lfm2.py profile     # 3 minutes of one core: whole networks with random
    weights in llama.cpp python experiments/lfm2/lfm2.py search      # trains the candidates and
    LFM2's order for a short time python experiments/lfm2/lfm2.py measure     # both networks turn
    by turn in llama.cpp, and the picture

Each step continues where it was ended. The space is search_spaces/lfm2.yaml with fewer widths.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

import flashnas as fn
from flashnas.operators import OperatorSpec
from flashnas.space import load_space
from flashnas.space.layerwise import LayerwiseSpace

HERE, OUT = Path(__file__).parent, Path("experiments/runs/lfm2")
SHIPPED = HERE.parents[1] / "search_spaces/lfm2.yaml"
WIDTHS, VALIDATED = [256, 384, 512, 640], 10
WORKLOAD, WEIGHTS, TPOT_MS = "batch=1,prompt=256,generated=256", "q8_0", 2.6
SEARCH: dict[str, Any] = {"trials": 12, "cycle_size": 4, "seeds": 2, "tokens": 131072}
ORDER = "ccaccaccacacacac"  # of the 16 layers of LFM2-350M, 700M and 1.2B
LABEL, ROUNDS = "LFM2's order", 7


class WithOrder(LayerwiseSpace):
    """The space, with LFM2's order of layers as the network to compare with."""

    def pure_models(self) -> list[tuple[str, tuple[OperatorSpec, ...]]]:
        convolution, attention = self.choices.values()
        return [
            (
                LABEL,
                tuple(
                    spec for kind in ORDER for spec in (convolution if kind == "c" else attention)
                ),
            )
        ]


def space_file() -> Path:
    """The shipped space with the widths of this experiment, under the same name."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "lfm2.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(SHIPPED.read_text()), "widths": WIDTHS}))
    return path


def profile() -> None:
    """The table, and networks that it was not fitted to."""
    table = OUT / "table"
    print(
        fn.profile(
            runtime="llama.cpp",
            weights=WEIGHTS,
            space=str(space_file()),
            workload=[WORKLOAD],
            out=str(table),
        )
    )
    print(
        fn.validate(table=str(table), space=str(space_file()), workload=WORKLOAD, count=VALIDATED)
    )


def search() -> None:
    """Short trainings of candidates within the budget, every one of which llama.cpp runs."""
    space = load_space(space_file())
    space.__class__ = WithOrder
    run = fn.search(
        space=space,
        table=str(OUT / "table"),
        workload=WORKLOAD,
        budgets={"tpot_ms": TPOT_MS},
        runtime="llama.cpp",
        rank_by="short",
        objectives=("loss", "tpot_ms"),
        workers=1,
        measure=False,
        out=OUT / "run",
        resume=True,
        **SEARCH,
    )
    print(run)


def measure() -> None:
    """Milliseconds a token of the best network of the search and of LFM2's order, turn by turn."""
    from flashnas.formats.gguf.file import write_random_file
    from flashnas.latency.workload import load_workload
    from flashnas.profiling.llama_cpp.child import time_requests

    run, workload = fn.Run.load(OUT / "run"), load_workload(WORKLOAD)
    trials = run.trials[run.trials["loss"].notna()]
    order = trials[trials["label"] == LABEL].iloc[0]
    best = trials[trials["label"] != LABEL].sort_values("loss").iloc[0]
    rows = {"search": best, LABEL: order}
    times: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        for name, row in rows.items():
            write_random_file(
                Path(folder) / f"{name}.gguf", fn.Architecture.parse(row["notation"]), WEIGHTS
            )
        for _ in range(ROUNDS):
            for name in rows:
                answer = time_requests(
                    Path(folder) / f"{name}.gguf",
                    prompts=[workload.prompt_tokens],
                    contexts=[workload.context],
                    steps=workload.generated_tokens,
                    vocab=8192,
                    threads=1,
                    flash_attention=False,
                    cache_type="f16",
                )
                times[name].append(answer["contexts"][0]["cpu_ms"])
    networks = {
        name: {
            "notation": fn.Architecture.parse(row["notation"]).notation,
            "params": int(row["params"]),
            "loss": float(row["loss"]),
            "predicted_ms": float(row["tpot_ms"]),
            "measured_ms": statistics.median(times[name]),
            "lowest_ms": min(times[name]),
            "highest_ms": max(times[name]),
        }
        for name, row in rows.items()
    }
    (HERE / "result.json").write_text(json.dumps(networks, indent=1) + "\n")
    picture(trials, networks)
    print(json.dumps(networks, indent=1))


def picture(trials: Any, networks: dict[str, Any]) -> None:
    """Loss over milliseconds a token: all that was trained, and the two networks as measured."""
    from flashnas.report.draw_matplotlib import draw_matplotlib
    from flashnas.report.marks import Guide, Key, Label, Panel, Picture, PlotAxis, Points, Whiskers
    from flashnas.report.palette import BUDGET, FAINT, INK, MUTED, SERIES

    low, high = trials["loss"].min(), trials["loss"].max()
    room, marks = 0.15 * (high - low or 1), []
    for (name, entry), colour in zip(networks.items(), (SERIES[7], BUDGET), strict=True):
        at, loss = entry["measured_ms"], entry["loss"]
        marks += [
            Whiskers(
                x=[at],
                y=[loss],
                low=[at - entry["lowest_ms"]],
                high=[entry["highest_ms"] - at],
                colour=INK,
                along_x=True,
            ),
            Points(x=[entry["predicted_ms"]], y=[loss], fill=colour, size=9),
            Points(x=[at], y=[loss], fill=colour, shape="cross", edge_width=2.5),
            Label(
                x=at,
                y=loss,
                text="best of the search" if name == "search" else name,
                dx=0,
                dy=-22,
                colour=INK,
                strong=True,
            ),
        ]
    drawn = draw_matplotlib(
        Picture(
            title="Loss over milliseconds a token in llama.cpp",
            subtitle="short trainings; the bars go from the lowest to the highest of seven timings",
            keys=[
                Key(text="trained, predicted", shape="circle", colour=FAINT),
                Key(text="measured", shape="cross", colour=INK, edge=INK),
            ],
            panels=[
                Panel(
                    x=PlotAxis(title=f"ms a token, {WEIGHTS}, one core"),
                    height=340,
                    y=PlotAxis(
                        title="loss of the short training, nats a token",
                        range=(low - room, high + 2 * room),
                    ),
                    marks=[
                        Points(x=trials["tpot_ms"], y=trials["loss"], fill=FAINT, size=9),
                        *marks,
                        Guide(at=TPOT_MS, colour=MUTED, text="budget"),
                    ],
                )
            ],
        )
    )
    drawn.savefig(HERE / "front.png", format="png")


if __name__ == "__main__":
    {"profile": profile, "search": search, "measure": measure}[sys.argv[1]]()
