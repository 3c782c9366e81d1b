"""Search GPT-2 style models for a low loss within 8 ms; about 30 seconds on one core.

python search.py [FOLDER]
"""

import sys
from pathlib import Path

from flashnas_gpt2_space.evaluator import latency_ms, loss

import flashnas as fn


def main(out: str) -> None:
    """Prints the front."""
    run = fn.search(
        space=str(Path(__file__).with_name("gpt2.yaml")),
        table=latency_ms,
        evaluator=loss,
        budgets={"latency_ms": 8.0},
        trials=8,
        workers=1,
        measure=False,
        out=out,
    )
    print(run.trials[["state", "loss", "latency_ms"]])
    for entry in run.front:
        print(
            entry.name,
            entry.notation,
            f"{entry.figures['loss']:.3f} nats at {entry.figures['latency_ms']:.2f} ms",
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gpt2_run")
