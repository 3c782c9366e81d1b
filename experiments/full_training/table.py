"""The table of m2.yaml or gd.yaml, with longer timings than `flashnas profile` takes: a step here is 0.1 ms.

    python experiments/full_training/table.py    # two tables; about five minutes of a quiet core; continues
"""

from pathlib import Path

import flashnas as fn
from flashnas.profiling import profile_runtime

HERE = Path(__file__).parent
WORKLOAD = "batch=1,prompt=256,generated=256"
STEPS, ROUNDS = 384, 5  # in place of 48 steps and 3 rounds


def main() -> None:
    """Profile both spaces in llama.cpp."""
    profile_runtime.STEPS, profile_runtime.ROUNDS = STEPS, ROUNDS
    for name in ("m2", "gd"):
        print(fn.profile(runtime="llama.cpp", space=str(HERE / f"{name}.yaml"), workload=[WORKLOAD],
                         out=f"experiments/runs/full_training/table_{name}"), flush=True)


if __name__ == "__main__":
    main()
