"""A search among LFM2's operators within a budget of milliseconds a token in llama.cpp, beside
LFM2's own order.

    python experiments/lfm2/lfm2.py profile    # 3 minutes of one core
    python experiments/lfm2/lfm2.py search
    python experiments/lfm2/lfm2.py measure

`profile` times whole networks with random weights in llama.cpp, `search` trains the candidates and
LFM2's order for a short time, `measure` times both networks in turns and draws the picture. Each
step continues where it was ended. The space is space.yaml.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import flashnas as fn
from flashnas.operators import OperatorSpec
from flashnas.space import load_space
from flashnas.space.layerwise import LayerwiseSpace

HERE, OUT = Path(__file__).parent, Path("experiments/runs/lfm2")
SPACE, VALIDATED = str(HERE / "space.yaml"), 10
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


def profile() -> None:
    """The table, and networks that it was not fitted to."""
    table = OUT / "table"
    print(
        fn.profile(
            runtime="llama.cpp",
            weights=WEIGHTS,
            space=SPACE,
            workload=[WORKLOAD],
            out=str(table),
        )
    )
    print(fn.validate(table=str(table), space=SPACE, workload=WORKLOAD, count=VALIDATED))


def search() -> None:
    """Short trainings of candidates within the budget, every one of which llama.cpp runs."""
    space = load_space(SPACE)
    space.__class__ = WithOrder
    run = fn.search(
        space=space,
        table=str(OUT / "table"),
        workload=WORKLOAD,
        budgets={"tpot_ms": TPOT_MS},
        runtime=("llama.cpp",),
        evidence="none",
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
    from flashnas.families.gguf.file import write_random_file
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
    import matplotlib

    from flashnas.reporting.plot import BUDGET, FAINT, INK, MUTED, SERIES, STYLE, Plot, key

    low, high = trials["loss"].min(), trials["loss"].max()
    room = 0.15 * (high - low or 1)
    with matplotlib.rc_context(STYLE):
        plot = Plot(
            "Loss over milliseconds a token in llama.cpp",
            "short trainings; the bars go from the lowest to the highest of seven timings",
        )
        keys = [key("trained, predicted", FAINT, "o"), key("measured", INK, "X")]
        plot.legend(handles=keys, loc="outside lower left", ncols=2)
        (panel,) = plot.panels
        panel.scatter(trials["tpot_ms"], trials["loss"], 46, FAINT)
        for (name, entry), colour in zip(networks.items(), (SERIES[7], BUDGET), strict=True):
            at, loss = entry["measured_ms"], entry["loss"]
            reach = [[at - entry["lowest_ms"]], [entry["highest_ms"] - at]]
            panel.errorbar([at], [loss], xerr=reach, ecolor=INK, capsize=2.5, linestyle="none")
            panel.scatter([entry["predicted_ms"]], [loss], 46, colour, zorder=3)
            panel.scatter([at], [loss], 68, colour, marker="X", zorder=3)
            panel.annotate(
                "best of the search" if name == "search" else name,
                (at, loss),
                xytext=(0, -17),
                textcoords="offset points",
                ha="center",
                weight="bold",
            )
        panel.axvline(TPOT_MS, color=MUTED, linestyle="--")
        panel.text(
            TPOT_MS,
            1.012,
            "budget",
            color=MUTED,
            ha="center",
            transform=panel.get_xaxis_transform(),
        )
        panel.set_ylim(low - room, high + 2 * room)
        panel.set_xlabel(f"ms a token, {WEIGHTS}, one core")
        panel.set_ylabel("loss of the short training, nats a token")
        (HERE / "front.png").write_bytes(plot.png())


if __name__ == "__main__":
    {"profile": profile, "search": search, "measure": measure}[sys.argv[1]]()
