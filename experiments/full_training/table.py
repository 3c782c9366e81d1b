"""The tables of m2.yaml and gd.yaml. A step takes 0.1 ms, so that each timing is longer than usual.

python experiments/full_training/table.py    # table.csv; three minutes of a quiet core; continues
"""

from pathlib import Path

import pandas as pd

from flashnas.latency.workload import load_workload
from flashnas.profiling.llama_cpp import target
from flashnas.profiling.profile import profile
from flashnas.space.load import load_operator_space

HERE = Path(__file__).parent
RUNS = Path("experiments/runs/full_training")
WORKLOAD = "batch=1,prompt=256,generated=256"
STEPS, ROUNDS = 384, 5  # in place of 48 steps and 3 rounds
CONTEXT = 384  # at the middle of the generated tokens
COLUMNS = ["family", "operator", "hidden", "latency_us", "p10_us", "p90_us"]


def main() -> None:
    """Profile both spaces in llama.cpp, and write the rows of a decode step."""
    target.STEPS = STEPS
    parts = []
    for name in ("m2", "gd"):
        folder = RUNS / f"table_{name}"
        space = load_operator_space(str(HERE / f"{name}.yaml"), "table.py")
        workloads, program = [load_workload(WORKLOAD)], target.LlamaCpp()
        print(profile(space, workloads, folder, program, rounds=ROUNDS), flush=True)
        rows = pd.read_parquet(folder / "operator_decode.parquet")
        parts.append(rows[rows["context"].isin([0, CONTEXT])].assign(family=name)[COLUMNS])
    pd.concat(parts).round(2).to_csv(HERE / "table.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
