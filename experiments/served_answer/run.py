"""The best network of each family that programs load, and the best free mix, at several budgets: what
it costs to be served.

    python experiments/served_answer/run.py                  # three minutes on one core
    python experiments/served_answer/run.py --table-of-llama-cpp experiments/served_answer/llama_cpp

Writes answers.csv and the tables of README.md. Nothing is trained. A search of the served space and
one of the free space answer each question.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

import flashnas as fn
from flashnas.base.errors import MissingRowsError
from flashnas.base.text import MISSING, parameters, with_interval
from flashnas.reporting.words import described

HERE = Path(__file__).parent
ANSWERS = HERE / "answers.csv"
QUESTIONS = [  # table, workload, budgets in ms
    ("h100_sxm", "decode-8k", (14_000, 20_000, 30_000, 60_000)),
    ("a100_sxm", "decode-8k", (40_000, 60_000)),
    ("a100_sxm", "chat", (1_500, 3_000)),
]


def main() -> None:
    """Answer all questions, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table-of-llama-cpp", help="a table that flashnas profile made")
    parser.add_argument("--workload", default="batch=1,prompt=64,generated=64")
    parser.add_argument("--budget-ms", type=float, nargs="+", default=[300.0, 600.0])
    parser.add_argument("--params", default="20M..60M")
    parser.add_argument("--vocab", default="8192")
    given = parser.parse_args()
    found = pd.read_csv(ANSWERS).to_dict("records") if ANSWERS.exists() else []
    if given.table_of_llama_cpp:
        small = {"params": given.params, "vocab": given.vocab}
        asked = [
            ("llama.cpp", given.table_of_llama_cpp, given.workload, ms, small)
            for ms in given.budget_ms
        ]
    else:
        asked = [
            (table, table, workload, ms, {})
            for table, workload, budgets in QUESTIONS
            for ms in budgets
        ]
    names = {name for name, *_ in asked}
    found = [row for row in found if row["table"] not in names]
    for name, table, workload, ms, more in asked:
        found += answers(name, table, workload, ms, more)
    frame = pd.DataFrame(found)
    frame.to_csv(ANSWERS, index=False)
    print(tables(frame))


def answers(
    name: str, table: str, workload: str, budget_ms: float, more: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row for each family and for the free mix: its network, and its difference to the one that
    is recommended of the served space."""
    asked = {"table": table, "workload": workload, "budgets": {"latency_ms": budget_ms}}
    asked |= {"experts": "any", "params": "..64B", **more}
    with tempfile.TemporaryDirectory() as folder:
        served = fn.search(**asked, out=f"{folder}/served")
        try:
            free = fn.search(**asked, space="free", out=f"{folder}/free")
        except MissingRowsError as error:  # the table does not answer for a recurrence
            print(error)
            free = None
    assert served.answer is not None
    rows = []
    for family in served.answer.families:
        chosen = family["hash"] == served.answer.recommended
        rows.append(
            {
                "family": family["family"],
                "network": described(fn.Architecture.parse(family["notation"])),
                "notation": family["notation"],
                "latency_ms": family["latency_ms"],
                "params": family["params"],
                "difference": family["difference"],
                "sd": family["sd"],
                "best": family["best"],
                "recommended": chosen,
            }
        )
    head = {"table": name, "workload": workload, "budget_ms": budget_ms}
    if free is None or free.answer is None:
        return [{**head, **row} for row in rows]
    # the free search compares its network with the best of each family
    best = served.answer.recommended
    beside = next(f for f in free.answer.families if f["hash"] == best)
    mixed = free.recommended
    rows.append(
        {
            "family": "free mix",
            "network": mixed.notation,
            "notation": mixed.notation,
            "latency_ms": mixed.latency_ms,
            "params": mixed.params,
            "difference": -beside["difference"],
            "sd": beside["sd"],
            "best": None,
            "recommended": False,
        }
    )
    return [{**head, **row} for row in rows]


def tables(frame: pd.DataFrame) -> str:
    """A line for each question: the recommended network, and what each other one differs by."""
    families = list(dict.fromkeys(frame["family"]))
    lines = [
        f"| table, workload, budget | recommended | {' | '.join(families)} |",
        f"|---|---|{'---|' * len(families)}",
    ]
    for (table, workload, ms), rows in frame.groupby(
        ["table", "workload", "budget_ms"], sort=False
    ):
        chosen = rows[rows["recommended"]].iloc[0]
        cells = []
        for family in families:
            row = rows[rows["family"] == family]
            if not len(row):
                cells.append(MISSING)
                continue
            entry = row.iloc[0]
            odds = "" if pd.isna(entry["best"]) else f" ({entry['best']:.2f})"
            cells.append(
                f"**0**{odds}"
                if entry["recommended"]
                else f"{with_interval(entry['difference'], entry['sd'])}{odds}"
            )
        question = f"{table}, {workload}, {ms / 1000:g} s"
        network = f"{chosen['network']}, {parameters(chosen['params'])}"
        lines.append(f"| {question} | {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
