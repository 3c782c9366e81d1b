"""Ask ten questions, and keep what answers.

    python experiments/questions/ask.py --out experiments/questions/NAME      # 2 minutes
    python experiments/questions/ask.py --compare 0.2.0 front                 # what differs

Each answer is a JSON file: the command, the recommended network, and the front with the figures that
rank it. A question that ends with an error keeps its line. Expected: the same answers from one
version to the next, but where the changelog says why not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from flashnas.architecture.architecture import compressed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEARCH = ["search", "--table", "h100_sxm", "--workload", "decode-8k"]
TRAINED = ["--evidence", "none", "--sampler", "aging-evolution", "--trials", "8"]
# flashnas' own files that say the same; `bare` is a configuration of one line
QUESTIONS = {
    "readme": [*SEARCH, "--budget-ms", "20k"],
    "paper_space": [*SEARCH, "--space", "nemotron_flash", "--budget-ms", "20k"],
    "layerwise": [*SEARCH, "--space", "layerwise", "--budget-ms", "20k"],
    "own_yaml": [*SEARCH, "--space", str(HERE / "own_space.yaml"), "--budget-ms", "16k"],
    "no_evidence": [
        *SEARCH,
        *("--space", "tiny", *TRAINED, "--tokens", "8192", "--workers", "1"),
        *("--config", "BARE"),
    ],
    "as_good_as": [*SEARCH, "--as-good-as", "Llama-3.2-1B"],
    "compare": ["compare", "Qwen3-0.6B", "LFM2-700M", "--workload", "decode-8k"],
    "three_objectives": [
        *SEARCH,
        *("--budget-ms", "20k", "--objectives", "loss,latency_ms,memory_gb"),
    ],
    "a100_batch_64": [
        *("search", "--table", "a100_sxm", "--budget-ms", "40k"),
        *("--workload", "batch=64,prompt=512,generated=2048"),
    ],
}
# an evaluator is an object of Python
EVALUATOR = """
import json, sys
import flashnas as fn

def parameters_too_many(network):
    return abs(network.params / 3e8 - 1) + 0.01 * sum(spec.kind == "a" for spec in network.operators)

run = fn.search(space="small", table="h100_sxm", workload="decode-8k", budgets={"latency_ms": 20_000},
                evaluator=parameters_too_many, sampler="aging-evolution", trials=20, baselines=False,
                workers=1, out=sys.argv[1])
print(json.dumps(run.summary))
"""
SHOWN = ("notation", "latency_ms", "params", "memory_gb", "loss", "full_loss", "expected_recall")


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def ask(name: str, scratch: Path) -> dict[str, Any]:
    """The answer to a question: what was asked, and what came."""
    if name == "evaluator":
        asked, done = textwrap.dedent(EVALUATOR).strip(), run(["-c", EVALUATOR, str(scratch)])
    else:
        bare = scratch.with_suffix(".yaml")
        bare.write_text("baselines: false\n", encoding="utf-8")
        words = [str(bare) if word == "BARE" else word for word in QUESTIONS[name]]
        out = ["--out", str(scratch)] if words[0] == "search" else []
        asked = "flashnas " + " ".join(QUESTIONS[name]).replace(str(ROOT) + "/", "")
        done = run(["-m", "flashnas", *words, *out, "--json"])
    if done.returncode:
        return {"asked": asked, "error": done.stderr.strip().splitlines()[-1]}
    return {"asked": asked, **kept(json.loads(done.stdout.splitlines()[-1]))}


def kept(printed: dict[str, Any]) -> dict[str, Any]:
    """What is compared of an answer: without paths, hashes and seconds."""
    if "front" not in printed:
        for network in printed["networks"]:
            network["notation"] = compressed(network["notation"])
        return rounded({key: value for key, value in printed.items() if key != "hash"})
    answer = printed.get("answer") or {}
    return rounded(
        {
            "recommended": [figures(entry) for entry in [printed.get("recommended")] if entry],
            "front": [figures(entry) for entry in printed["front"]],
            "trials": printed["trials"],
            "limit": answer.get("limit"),
            "train_hours": answer.get("train_hours"),
        }
    )


def figures(entry: dict[str, Any]) -> dict[str, Any]:
    found = {key: entry[key] for key in SHOWN if entry.get(key) is not None}
    return {**found, "notation": compressed(found["notation"])}


def rounded(value: Any) -> Any:
    """With six digits, as CPUs differ behind them."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def written(answer: dict[str, Any]) -> str:
    """JSON with a line for each network of the front."""
    front = ",\n".join(json.dumps(entry) for entry in answer.get("front", ()))
    text = json.dumps({**answer, "front": "FRONT"} if front else answer, indent=1)
    return text.replace('"FRONT"', f"[\n{front}\n]") + "\n"


def compare(one: Path, other: Path) -> None:
    """Print a line for each question: equal, or what differs."""
    for path in sorted(one.glob("*.json")):
        before, after = (json.loads((folder / path.name).read_text()) for folder in (one, other))
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        print(f"{path.stem}: {'the same' if not keys else ', '.join(keys)}")
        for name, answer in (("before", before), ("after", after)):
            if keys:
                print(f"  {name:7}{line(answer)}")


def line(answer: dict[str, Any]) -> str:
    if "front" not in answer:
        return answer.get("error", "compared")
    best = answer["recommended"][0] if answer["recommended"] else {"notation": "no recommendation"}
    shown = ", ".join(f"{key} {value}" for key, value in best.items())
    return f"{shown}; front of {len(answer['front'])}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the answers; those there are kept")
    parser.add_argument("--compare", nargs=2, metavar="FOLDER", help="two folders beside this file")
    options = parser.parse_args()
    if options.compare:
        compare(*(HERE / name for name in options.compare))
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (*QUESTIONS, "evaluator"):
        path = options.out / f"{name}.json"
        if path.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            answer = ask(name, Path(scratch) / "run")
        path.write_text(written(answer), encoding="utf-8")
        print(name, line(answer), flush=True)


if __name__ == "__main__":
    main()
