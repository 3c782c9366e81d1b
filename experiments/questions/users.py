"""Ten questions of users, each with what a good answer has, written down before the first run.

    python experiments/questions/users.py     # users.md; a minute of one core

The lines of an answer below its table are kept, without the run folder's commands. Figures change
with the tables and the evidence; what a good answer has does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DECODE = ("--workload", "decode-8k")
QUESTIONS = {
    "A dense model of 1 to 2B parameters for vLLM, trained within 2,688 H100-hours": (
        ("--params", "1B..2B", "--runtime", "vllm", "--train-hours", "2688", "--budget-ms", "20k"),
        "A dense network of at most 2B parameters in all that vLLM loads; hours and tokens of its"
        " training; by how much it leads a transformer, and whether another family may be better.",
    ),
    "Whatever is best within 8 GB": (
        (*DECODE, "--budget-ms", "20k", "--budget", "memory_gb=8", "--experts", "any"),
        "A network whose weights and cache take less than 8 GB; with experts or without, and why.",
    ),
    "350M parameters in llama.cpp on this kind of CPU": (
        (*DECODE, "--params", "300M..400M", "--runtime", "llama.cpp", "--budget-ms", "20k"),
        "A network of 300M to 400M parameters that llama.cpp loads, and that the milliseconds are of"
        " a table of a GPU, or a table of a CPU.",
    ),
    "As good as Llama-3.2-1B, and faster": (
        (*DECODE, "--as-good-as", "Llama-3.2-1B"),
        "A network that loads, milliseconds and memory less, and the probability that it loses no"
        " more; one that is surer.",
    ),
    "64 requests at once": (
        ("--workload", "batch=64,prompt=512,generated=512", "--budget-ms", "8k"),
        "A smaller network, or one with less cache; its memory with 64 sequences.",
    ),
    "The first token of 8k tokens within 100 ms": (
        ("--workload", "batch=1,prompt=8192,generated=128", "--budget", "ttft_ms=100"),
        "The time to the first token is what limits it, and is named.",
    ),
    "On an A100": (
        ("--table", "a100_sxm", *DECODE, "--budget-ms", "30k"),
        "Times of an A100 with wider intervals, because no program was timed there, and that said.",
    ),
    "On a GPU without a table": (
        ("--table", "rtx5090", *DECODE, "--budget-ms", "30k"),
        "One line: which tables there are, and the command that makes one.",
    ),
    "With experts": (
        (*DECODE, "--budget-ms", "20k", "--experts", "only"),
        "A network with experts, all and active parameters, memory, and how wide that evidence is.",
    ),
    "A budget that nothing meets": (
        (*DECODE, "--budget-ms", "3k"),
        "One line: the least milliseconds that a network takes, and what to change.",
    ),
}
LEFT_OUT = ("time first", "next", "report")


def asked(words: tuple[str, ...]) -> str:
    """What is printed below the table of the front, or the line of an error."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "flashnas", "search", *words, "--out", f"{scratch}/run"]
        environment = os.environ | {"COLUMNS": "120"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    lines = done.stdout.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("recommended  "))
    kept, skipped = [], False
    for line in lines[start:]:
        skipped = line.startswith(LEFT_OUT) or (skipped and line.startswith(" "))
        if not skipped:
            kept.append(line)
    return "\n".join(kept)


def main() -> None:
    parts = ["# Answers\n"]
    for question, (words, good) in QUESTIONS.items():
        command = " ".join(("flashnas search", *words))
        parts.append(
            f"## {question}\n\n    {command}\n\nA good answer: {good}\n\n```text\n{asked(words)}\n```\n"
        )
        print(question, flush=True)
    (HERE / "users.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
