"""The best network of each family that programs load, and the best free mix, at several budgets: what
it costs to be served.

    python experiments/llama_cpp/served_answer.py                  # a minute of one core
    python experiments/llama_cpp/served_answer.py --table-of-llama-cpp experiments/llama_cpp/answers

Writes answers.csv and prints the table of README.md. Nothing is trained. Each question is one
search of the served space, which looks at free mixes beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

import flashnas as fn
from flashnas.base.text import MISSING, parameters, with_interval
from flashnas.reporting.words import described

HERE = Path(__file__).parent
ANSWERS = HERE / "answers.csv"
QUESTIONS = [  # table, workload, budgets in ms
    ("h100_sxm", "decode-8k", (14_000, 20_000, 30_000)),
    ("a100_sxm", "decode-8k", (25_000, 40_000)),
    ("a100_sxm", "chat", (1_500, 3_000)),
]
LLAMA_CPP = ("batch=1,prompt=64,generated=64", (300, 600), {"params": "20M..60M", "vocab": "8192"})


def main() -> None:
    """Answer all questions, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table-of-llama-cpp", help="a table that flashnas profile made")
    own = parser.parse_args().table_of_llama_cpp
    found = pd.read_csv(ANSWERS).to_dict("records") if ANSWERS.exists() else []
    if own:
        workload, budgets, small = LLAMA_CPP
        asked = [("llama.cpp", own, workload, ms, small) for ms in budgets]
    else:
        asked = [(name, name, load, ms, {}) for name, load, each in QUESTIONS for ms in each]
    names = {name for name, *_ in asked}
    found = [row for row in found if row["table"] not in names]
    for name, table, workload, ms, more in asked:
        found += answers(name, table, workload, ms, more)
    frame = pd.DataFrame(found)
    frame.to_csv(ANSWERS, index=False)
    print(lines_of(frame))


def answers(
    name: str, table: str, workload: str, budget_ms: float, more: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row for each family and for the free mix: its network, and its difference to the one that
    is recommended."""
    with tempfile.TemporaryDirectory() as folder:
        run = fn.search(
            table=table, workload=workload, budgets={"latency_ms": budget_ms}, out=folder, **more
        )
    answer, trials = run.answer, run.trials.set_index("hash")
    assert answer is not None
    return [
        {
            "table": name,
            "workload": workload,
            "budget_ms": budget_ms,
            "family": best["family"],
            "network": described(fn.Architecture.parse(best["notation"])),
            "notation": best["notation"],
            "latency_ms": trials.loc[best["hash"], "latency_ms"],
            "params": trials.loc[best["hash"], "params"],
            "difference": best["difference"],
            "sd": best["sd"],
            "best": best["best"],
            "recommended": best["hash"] == answer.recommended,
        }
        for best in (*answer.families, *([answer.free_mix] if answer.free_mix else []))
    ]


def lines_of(frame: pd.DataFrame) -> str:
    """A line for each question: the recommended network, and what each other one differs by."""
    families = list(dict.fromkeys(frame["family"]))
    lines = [
        f"| table, workload, budget | recommended | {' | '.join(families)} |",
        f"|---|---|{'---|' * len(families)}",
    ]
    for (table, workload, ms), rows in frame.groupby(
        ["table", "workload", "budget_ms"], sort=False
    ):
        by_family = {row["family"]: row for row in rows.to_dict("records")}
        (chosen,) = (row for row in by_family.values() if row["recommended"])
        cells = []
        for family in families:
            if not (row := by_family.get(family)):
                cells.append(MISSING)
                continue
            odds = f" ({row['best']:.2f})" if family != "free mix" else ""
            difference = with_interval(row["difference"], row["sd"])
            cells.append(("**0**" if row["recommended"] else difference) + odds)
        question = f"{table}, {workload}, {ms / 1000:g} s"
        network = f"{chosen['network']}, {parameters(chosen['params'])}"
        lines.append(f"| {question} | {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
