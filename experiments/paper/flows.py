"""The same networks in two programs: torch and llama.cpp (arXiv 2511.18890, table 14). See
README.md.

    python experiments/paper/flows.py           # flows.csv; 4 minutes of a quiet core; continues
    python experiments/paper/flows.py --draw    # its table and picture; seconds

Prompts of 128 tokens and the mean step of the 64 tokens after them, one sequence, one thread. The
extra `llama-cpp` is needed.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from picture import framed, still

import flashnas as fn
from flashnas.latency.workload import load_workload
from flashnas.profiling.llama_cpp.target import LlamaCpp
from flashnas.profiling.target import Target
from flashnas.profiling.torch_target import Torch
from flashnas.report.drawing import SERIES

HERE = Path(__file__).parent
CSV, PNG = HERE / "flows.csv", HERE / "flows.png"
WORKLOAD = "batch=1,prompt=128,generated=64"
MAMBA, ATTENTION, FFN = "m2(state=64)", "a(head_dim=64,rope_share=0.0)", "f(relu2=true)"
NETWORKS = {
    name: f"512(vocab=8192): {operators}"
    for name, operators in {  # much Mamba2, much FFN, all three
        "8cc119": f"5x({MAMBA}) {FFN} 2x({MAMBA}) {ATTENTION}",
        "9d5eb8": f"2x({FFN}) {ATTENTION} {FFN} {MAMBA} 5x({FFN}) {ATTENTION} 2x({FFN})",
        "a78f8f": f"{MAMBA} 8x({FFN}) {MAMBA} {FFN} {ATTENTION} {FFN} {MAMBA} {ATTENTION} {FFN}"
        f" {MAMBA}",
    }.items()
}
ROUNDS = 3
torch_flow = partial(Torch, device="cpu", threads=1, seconds=3.0)
FLOWS: dict[str, Callable[[], Target]] = {
    "eager": torch_flow,
    "llama.cpp, f32": partial(LlamaCpp, threads=1, weights="f32"),
    "llama.cpp, q8_0": partial(LlamaCpp, threads=1, weights="q8_0"),
}
COLUMNS = {"prompt_ms": "prompt of 128 tokens, ms", "step_ms": "one token, ms"}


def time_all() -> None:
    """Time what flows.csv does not have; the rounds are outermost."""
    rows = pd.read_csv(CSV).to_dict("records") if CSV.exists() else []
    for number in range(ROUNDS):
        for network in NETWORKS:
            for flow, target in FLOWS.items():
                key = {"network": network, "flow": flow, "round": number}
                if any(key.items() <= row.items() for row in rows):
                    continue
                architecture, workload = (
                    fn.Architecture.parse(NETWORKS[network]),
                    load_workload(WORKLOAD),
                )
                measured = target().time_request(architecture, workload, 1)
                rows.append(
                    {
                        **key,
                        "prompt_ms": round(measured.ttft_ms, 3),
                        "step_ms": round(measured.tpot_ms, 3),
                    }
                )
                pd.DataFrame(rows).to_csv(CSV.with_suffix(".new"), index=False)
                os.replace(CSV.with_suffix(".new"), CSV)
                print(rows[-1], flush=True)


def draw(rows: pd.DataFrame) -> None:
    """The median of each flow and network with its least and greatest time."""
    flows = [*FLOWS]
    with still(
        PNG,
        (11.0, 4.8),
        "The same networks in two programs",
        "One thread of a CPU, batch 1, random weights; median and range of three timings. All but"
        " q8_0: float32.",
    ) as figure:
        for place, (column, text) in enumerate(COLUMNS.items()):
            axes = framed(figure, (0.165 + 0.43 * place, 0.19, 0.385, 0.63))
            for number, (colour, network) in enumerate(zip(SERIES, NETWORKS, strict=False)):
                part = (
                    rows[rows["network"] == network]
                    .groupby("flow")[column]
                    .agg(["min", "median", "max"])
                )
                part = part.reindex(flows)
                heights = [0.22 * (1 - number) - line for line in range(len(flows))]
                axes.hlines(heights, part["min"], part["max"], color=colour, alpha=0.5)
                axes.plot(part["median"], heights, "o", color=colour, label=label_of(network))
            axes.set_yticks(
                [-line for line in range(len(flows))], flows if not place else [""] * len(flows)
            )
            axes.set(xlabel=text, xlim=(0, None))
        figure.legend(
            *axes.get_legend_handles_labels(),
            frameon=False,
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0.15, -0.01),
            fontsize=9,
        )


def label_of(network: str) -> str:
    """Such as `8cc119: 7 m2, 1 a, 1 f`."""
    kinds = [spec.kind for spec in fn.Architecture.parse(NETWORKS[network]).operators]
    return f"{network}: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("m2", "a", "f"))


def main() -> None:
    """Time unless --draw is given, print the medians and draw them."""
    if "--draw" not in sys.argv:
        time_all()
    rows = pd.read_csv(CSV)
    for column in COLUMNS:
        print(
            rows.groupby(["flow", "network"])[column].median().unstack().round(2).to_string(), "\n"
        )
    draw(rows)


if __name__ == "__main__":
    main()
