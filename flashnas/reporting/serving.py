"""Users at once and second turns in the answer of a search."""

from __future__ import annotations

from typing import Any

from flashnas.base.text import is_number, number, with_interval
from flashnas.latency.metrics import LARGER_IS_BETTER
from flashnas.reporting.words import recommended
from flashnas.run_folder.recorded_run import RecordedRun, rows

SERVES = {"sequences": "users at once", "turn2_ttft_ms": "second turn"}


def serving(run: RecordedRun) -> str | None:
    """Of the recommended network, where one of them is asked for, and where the best transformer without
    and with windows is ahead, whose recall stands beside it."""
    answer, own = run.answer, dict[str, Any](recommended(run).figures)
    asked = [name for name in SERVES if is_number(own.get(name))]
    if answer is None or answer.as_good or not asked:
        return None

    def said(figures: dict[str, Any]) -> str:
        return ", ".join(
            f"{SERVES[name]} {number(figures.get(name), 3, 'ms' * name.endswith('ms'))}"
            for name in asked
        )

    def ahead(name: str, theirs: Any) -> bool:
        if not is_number(theirs):
            return False
        return bool(theirs > own[name] if name in LARGER_IS_BETTER else theirs < own[name])

    parts = [f"{said(own)}, in pages as vLLM has them"]
    found = {trial.hash: dict[str, Any](trial.figures) for trial in run.front}
    found |= {row.hash: row._asdict() for row in rows(run.baselines)}
    for family in answer.families:
        title, theirs = family["family"], found.get(family["hash"], {})
        if not title.startswith("transformer") or family["hash"] == answer.recommended:
            continue
        where = " and ".join(SERVES[name] for name in asked if ahead(name, theirs.get(name)))
        recall, sd = (theirs.get(f"expected_recall{end}") for end in ("", "_sd"))
        words = title.partition(" (")[0] + f" (ahead in {where})" * bool(where)
        beside = f", recall {with_interval(recall, sd or 0.0, 2)}" if is_number(recall) else ""
        parts.append(f"{words}: {said(theirs)}{beside}")
    return "; ".join(parts)
