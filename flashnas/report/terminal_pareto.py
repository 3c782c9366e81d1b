"""What `pareto` prints: the trained networks under another question."""

from __future__ import annotations

from flashnas.base.text import MISSING, counted
from flashnas.report.table import front_table
from flashnas.reuse.rerank import Reranked


def pareto_text(answer: Reranked) -> str:
    run, config = answer.run, answer.run.config
    limits = (
        ", ".join(f"{name} {value:,.6g}" for name, value in config["budgets"].items()) or "none"
    )
    if run.confidence:
        limits += f" with {run.confidence:.0%} confidence"
    within = answer.trained - answer.outside - sum(answer.unanswered.values())
    return "\n".join(
        [
            "device   "
            f" {run.entry('table', 'device') or run.entry('table', 'name') or 'as recorded'}",
            f"workload  {run.entry('workload', 'name') or MISSING}",
            f"budget    {limits}",
            f"networks  {answer.trained} trained in {counted(len(config['runs']), 'run')}; {within}"
            " within"
            f" the budget, {answer.outside} outside",
            *(f"left out  {count}: {reason}" for reason, count in answer.unanswered.items()),
            "",
            front_table(run),
        ]
    )
