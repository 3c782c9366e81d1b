"""Users at once and second turns in the answer of a search."""

from __future__ import annotations

from typing import Any

from flashnas.base.text import is_number, number, with_interval
from flashnas.run_folder.recorded_answer import Answer
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.trials.pareto import minimised
from flashnas.trials.trial import Trial

SERVES = {"sequences": "users at once", "turn2_ttft_ms": "second turn"}


def serving(run: RecordedRun, answer: Answer, chosen: Trial) -> str:
    """Of the recommended network, where one of them is asked for, and where the best transformer without
    and with windows is ahead, whose recall stands beside it."""
    asked = [name for name in SERVES if is_number(getattr(chosen, name))]
    if not asked:
        return ""

    def said(network: Any) -> str:
        return ", ".join(
            f"{SERVES[name]} {number(getattr(network, name), 3, 'ms' * name.endswith('ms'))}"
            for name in asked
        )

    def ahead(network: Any, name: str) -> bool:
        own, theirs = (getattr(each, name) for each in (chosen, network))
        return is_number(theirs) and minimised(name, theirs) < minimised(name, own)

    parts = [f"{said(chosen)}, in pages as vLLM has them"]
    found = {each.hash: each for each in (*rows(run.baselines), *run.front)}
    for family in answer.families:
        title, network = family["family"], found.get(family["hash"])
        if network is None or network.hash == chosen.hash or not title.startswith("transformer"):
            continue
        where = " and ".join(SERVES[name] for name in asked if ahead(network, name))
        words = title.partition(" (")[0] + f" (ahead in {where})" * bool(where)
        recall, sd = network.expected_recall, network.expected_recall_sd
        beside = f", recall {with_interval(recall, sd or 0.0, 2)}" if is_number(recall) else ""
        parts.append(f"{words}: {said(network)}{beside}")
    return "; ".join(parts)
