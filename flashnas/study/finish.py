"""What came of a search: its front, its answer, and what the run folder holds of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.families.programs import loading
from flashnas.run_folder.recorded_answer import Answer
from flashnas.samplers import sampler_name
from flashnas.study.answer import answer_of
from flashnas.study.comparison import differences_to
from flashnas.study.record import RunRecord
from flashnas.study.rivals import rivals_of
from flashnas.study.sampling import proposer
from flashnas.study.trials import Trials
from flashnas.trials.pareto import thinned
from flashnas.trials.trial import STATES, Trial


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search found: run.yaml, the front with its numbers, and the answer. summary: the object of
    `search --json`."""

    path: Path
    config: dict[str, Any]
    front: list[Trial]
    answer: Answer | None
    summary: dict[str, Any]


def finish(record: RunRecord, trials: Trials) -> Finished:
    """Write the trials, the front, the answer and the totals.

    Raises:
        RunError: no network could be evaluated.
    """
    problem, folder = record.problem, record.folder
    failures = dict(
        Counter(
            result["reason"] for result in record.results.values() if result["state"] == "failed"
        ).most_common()
    )
    for reason, count in failures.items():
        record.note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    if not len(trials.ranked):
        folder.write_trials(record.table(trials))
        raise RunError(
            f"{folder.path}: no candidate could be trained; reasons:"
            f" {'; '.join(sorted(failures)) or 'none tried'}"
        )
    front, best, beside = described(record, trials)
    answer = None
    if best is not None:
        answer = answer_of(problem, trials, front, best, beside, record.acquisitions)
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
        front=written,
        answer=answer,
        summary=folder.summary(written, best, failures),
    )


def described(
    record: RunRecord, trials: Trials
) -> tuple[list[Trial], Trial | None, dict[str, Trial]]:
    """The front, the recommended network where a scorer can compare it, both with their differences to
    it, and what it is compared with, by title, the best one first: the best of each family, or the
    baselines that were trained."""
    problem, scorer, differences = record.problem, trials.scorer, {}
    best = [] if scorer is None else [trials.best]
    record.shown = list(dict.fromkeys([*trials.front, *best]))
    if trials.ranks_by == "value":
        for title, network in rivals_of(problem, trials).items():
            record.beside.setdefault(network.hash, (title, network))
    rows = {row.hash: row for row in record.table(trials)}
    beside = {title: rows[key] for key, (title, _) in record.beside.items() if rows[key].complete}
    if trials.ranks_by != "value":
        beside = dict(sorted(beside.items(), key=lambda item: item[1].point))
    if scorer is not None:
        networks = [trials.networks[index] for index in trials.front]
        differences = differences_to(scorer, trials.networks[trials.best], networks)

    def with_parts(index: int) -> Trial:
        network = trials.networks[index]
        difference, sd = differences.get(network.hash, (None, None))
        return dataclasses.replace(
            rows[network.hash],
            runs_in=loading(network) if isinstance(network, Architecture) else None,
            full_loss_difference=difference,
            full_loss_difference_sd=sd,
            **problem.costs.details(network),
        )

    found = {index: with_parts(index) for index in record.shown}
    if problem.config.measure and problem.model is not None and problem.trainings is not None:
        from flashnas.study.timing import with_times  # loads torch

        shown = thinned([found[index] for index in trials.front], problem.objectives)
        finalists = {trial.hash: trial for trial in (*shown, *(found[index] for index in best))}
        timed = {trial.hash: trial for trial in with_times(record, list(finalists.values()))}
        found = {index: timed.get(trial.hash, trial) for index, trial in found.items()}
    front = [found[index] for index in trials.front]
    return front, found[best[0]] if best else None, beside
