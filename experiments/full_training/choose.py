"""The networks of this experiment: what the tables predict for them, and what llama.cpp takes.

python experiments/full_training/table.py     # first: the tables
python experiments/full_training/choose.py    # networks.csv; two minutes of a quiet core
"""

import csv
import statistics
from pathlib import Path

import flashnas as fn
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.workload import load_workload
from flashnas.profiling.llama_cpp.target import LlamaCpp

HERE = Path(__file__).parent
RUNS = Path("experiments/runs/full_training")
WORKLOAD = "batch=1,prompt=256,generated=256"
VOCAB, ROUNDS = 2048, 9
MIXERS = {
    "m2": ("m2(head_dim=32,state={state})", "a(head_dim=32)"),
    "gd": ("gd(head_dim=32)", "a(head_dim=32,qk_norm=true,out_gate=true)"),
}
COLUMNS = ("notation", "params", "depth", "width", "attention", "predicted_ms", "measured_ms")
# family, width, blocks, those of attention (spread evenly), FFN, state of Mamba2
CHOSEN = (
    ("m2", 128, 2, 1, 256, 128),
    ("gd", 128, 3, 1, 96, 0),
    ("m2", 96, 4, 2, 96, 32),
    ("m2", 64, 5, 4, 96, 128),
    ("gd", 64, 5, 2, 256, 0),
    ("m2", 64, 6, 3, 96, 32),
    ("gd", 64, 6, 1, 96, 0),
    ("gd", 32, 7, 4, 256, 0),
    ("m2", 32, 8, 1, 256, 32),
    ("gd", 32, 9, 1, 96, 0),
    ("m2", 32, 10, 5, 96, 32),
    ("m2", 32, 12, 1, 96, 32),
)


def network(
    family: str, width: int, blocks: int, attention: int, ffn: int, state: int
) -> fn.Architecture:
    """The architecture of an entry of CHOSEN."""
    mixer, attends = (text.format(state=state) for text in MIXERS[family])
    rare = min(attention, blocks - attention)
    places = {round((number + 0.5) * blocks / rare - 0.5) for number in range(rare)}
    if attention > blocks - attention:
        places = set(range(blocks)) - places
    layers = (
        f"{attends if place in places else mixer} f(intermediate={ffn})" for place in range(blocks)
    )
    return fn.Architecture.parse(f"{width}(vocab={VOCAB}): {' '.join(layers)}")


def main() -> None:
    """Write networks.csv."""
    workload, program = load_workload(WORKLOAD), LlamaCpp()
    models = {family: LatencyModel(str(RUNS / f"table_{family}"), WORKLOAD) for family in MIXERS}
    networks = [network(*entry) for entry in CHOSEN]
    measured: list[list[float]] = [[] for _ in networks]
    for _ in range(ROUNDS):
        for found, each in zip(measured, networks, strict=True):
            steps = range(workload.prompt_tokens + 1, workload.context + 1)
            found += program.times(each, 1, [workload.prompt_tokens], [steps]).steps
    with (HERE / "networks.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for entry, each, found in zip(CHOSEN, networks, measured, strict=True):
            family, width, blocks, attention, *_ = entry
            predicted = models[family].estimate(each).tpot_ms
            rows.writerow(
                (
                    str(each),
                    each.params - each.vocab * each.hidden,
                    blocks,
                    width,
                    attention,
                    f"{predicted:.4f}",
                    f"{statistics.median(found):.4f}",
                )
            )


if __name__ == "__main__":
    main()
