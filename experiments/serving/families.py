"""The best network of each family on an H100: users at once, second turn and recall.

    python experiments/serving/families.py

Prints the table of docs/latency.md in a minute. Limits that bind nothing ask for the metrics.
"""

import dataclasses
import tempfile
from pathlib import Path

import flashnas as fn
from flashnas.base.text import number, with_interval
from flashnas.latency.workload import WORKLOADS
from flashnas.reporting.words import shape_of

CASES = {"chat": 1000, "decode-8k": 20_000}  # workload: milliseconds
ASKED = {"sequences": 1, "turn2_ttft_ms": 1e6}
HEAD = (
    "workload",
    "best of",
    "network",
    "users at once",
    "block",
    "second turn",
    "recall",
    "full loss",
    "request",
)


def main():
    print(f"| {' | '.join(HEAD)} |\n|---|---|---|--:|--:|--:|--:|--:|--:|")
    for workload, budget_ms in CASES.items():
        with tempfile.TemporaryDirectory() as out:
            limits = {"latency_ms": budget_ms, **ASKED}
            run = fn.search(
                table="h100_sxm", workload=workload, budgets=limits, out=Path(out, "run")
            )
        rows = [(family, "") for family in run.answer.families]
        # what vLLM keeps unless told otherwise
        rows += [(row, "bfloat16") for row, _ in rows if row["family"] == "Granite hybrid"]
        for family, states in rows:
            asked = dataclasses.replace(WORKLOADS[workload], state_dtype=states or "auto")
            found = fn.estimate(family["notation"], table="h100_sxm", workload=asked)
            title, _, shape = shape_of(family["notation"], True).partition(", ")
            title += f", states in {states}" * bool(states)
            cells = [
                f"`{workload}`, {budget_ms / 1000:g} s",
                title,
                shape,
                f"{found.sequences:,.0f}",
                f"{found.block_tokens:,.0f}",
                number(found.turn2_ttft_ms, 3, "ms"),
                with_interval(found.recall, found.recall_sd, 2),
                with_interval(family["difference"], family["sd"])
                if family["difference"]
                else "**0**",
                f"{found.latency_ms / 1000:.3g} s",
            ]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
