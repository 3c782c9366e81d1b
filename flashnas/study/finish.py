"""What came of a search: its front, its answer, and what the run folder holds of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.errors import RunError
from flashnas.run_folder.recorded_answer import Answer
from flashnas.samplers import sampler_name
from flashnas.study.answer import answer_of
from flashnas.study.as_good import beside_model
from flashnas.study.dense_or_sparse import dense_or_sparse
from flashnas.study.record import RunRecord
from flashnas.study.sampling import proposer
from flashnas.study.shown import described, shown_figures
from flashnas.study.trials import Trials
from flashnas.trials.trial import STATES, Trial


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search found: run.yaml, the trials in their order with the encoding of their genotypes,
    the front with its numbers, and the answer. summary: the object of `search --json`."""

    path: Path
    config: dict[str, Any]
    trials: list[Trial]
    encode: Callable[[Any], Mapping[str, Any]]
    front: list[Trial]
    answer: Answer | None
    summary: dict[str, Any]


def finish(record: RunRecord, trials: Trials) -> Finished:
    """Write the trials, the front, the answer and the totals.

    Raises:
        RunError: no network could be evaluated.
    """
    problem, folder, scorer, note = record.problem, record.folder, trials.scorer, record.note
    failures = dict(
        Counter(
            result["reason"] for result in record.results.values() if result["state"] == "failed"
        ).most_common()
    )
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    if not len(trials.ranked):
        folder.write_trials(record.table(trials))
        raise RunError(
            f"{folder.path}: no candidate could be trained; reasons:"
            f" {'; '.join(sorted(failures)) or 'none tried'}"
        )
    front, best, beside = described(record, trials)
    front, best = shown_figures(problem, folder, scorer, front, best, note)
    answer = None
    if scorer is not None and best is not None:
        answer = dataclasses.replace(
            answer_of(problem, scorer, trials, front, best, beside, record.acquisitions),
            dense_or_sparse=dense_or_sparse(problem, scorer, trials),
            as_good=beside_model(problem, best.architecture),
        )
    written = folder.write_front(front, best)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    rows = record.write(trials)
    done = [row for row in rows if row.state == "complete"]
    totals = {name: sum(row.state == name for row in rows) for name in STATES}
    totals["known"] = sum(row.computed_elsewhere for row in done)
    totals["tokens"] = sum(row.tokens or 0 for row in done if not row.computed_elsewhere)
    proposed = {
        "sampler": sampler_name(proposer(problem)),
        "networks": trials.looked_at,
        "within": len(trials),
    }
    folder.write_config(proposed=proposed)
    folder.write_finished(time.monotonic() - problem.started, totals)
    return Finished(
        path=folder.path,
        config=folder.config,
        trials=rows,
        encode=problem.space.encode,
        front=written,
        answer=answer,
        summary=folder.summary(written, best, failures),
    )
