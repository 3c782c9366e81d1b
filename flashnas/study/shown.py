"""What is shown of a search: its front, the recommended network, and what that is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from flashnas.architecture import Architecture
from flashnas.families.programs import loading
from flashnas.run_folder.folder import RunFolder
from flashnas.study.answer import differences_to
from flashnas.study.problem import Problem
from flashnas.study.record import RunRecord
from flashnas.study.rivals import rivals_of
from flashnas.study.scorer import Scorer
from flashnas.study.trials import Trials
from flashnas.trials.pareto import thinned
from flashnas.trials.trial import Trial


def described(
    record: RunRecord, trials: Trials
) -> tuple[list[Trial], Trial | None, dict[str, Trial]]:
    """The front, the recommended network where a scorer can compare it, and what it is compared with,
    by title, the best one first: the best of each family, or the baselines that were trained."""
    best = None if trials.scorer is None else trials.best
    record.shown = list(dict.fromkeys([*trials.front, *([] if best is None else [best])]))
    if trials.scorer is not None and trials.ranks_by == "value":
        for title, network in rivals_of(record.problem, trials).items():
            record.beside.setdefault(network.hash, (title, network))
    rows = {row.hash: row for row in record.table(trials)}
    found = {index: rows[trials.networks[index].hash] for index in record.shown}
    beside = {title: rows[key] for key, (title, _) in record.beside.items() if rows[key].complete}
    if trials.ranks_by != "value":
        beside = dict(sorted(beside.items(), key=lambda item: item[1].point))
    chosen = None if best is None else found[best]
    return [found[index] for index in trials.front], chosen, beside


def shown_figures(
    problem: Problem,
    folder: RunFolder,
    scorer: Scorer | None,
    front: Sequence[Trial],
    best: Trial | None,
    note: Callable[[str], None],
) -> tuple[list[Trial], Trial | None]:
    """The front and the recommended network with the parts of their latency, the programs that run
    them, and their differences to the latter; those of a table with what was measured, where the
    device is at hand and something was trained."""
    networks = [trial.architecture for trial in front]
    differences = {}
    if best is not None and scorer is not None:
        differences = differences_to(scorer, best.architecture, networks)

    def with_parts(trial: Trial) -> Trial:
        difference, sd, _ = differences.get(trial.hash, (None, None, None))
        return dataclasses.replace(
            trial,
            runs_in=programs_of(trial.architecture),
            full_loss_difference=difference,
            full_loss_difference_sd=sd,
            **problem.costs.details(trial.architecture),
        )

    found = {trial.hash: with_parts(trial) for trial in (*front, *filter(None, [best]))}
    if problem.config.measure and problem.model is not None and problem.trainings is not None:
        from flashnas.study.timing import with_times  # loads torch

        shown = [*thinned(front, problem.objectives), *filter(None, [best])]
        timed = [found[key] for key in dict.fromkeys(trial.hash for trial in shown)]
        found |= {trial.hash: trial for trial in with_times(problem, folder, timed, note)}
    return [found[trial.hash] for trial in front], None if best is None else found[best.hash]


def programs_of(network: Any) -> dict[str, str] | None:
    """`runs_in` of a network; None of a network of a foreign space."""
    return loading(network) if isinstance(network, Architecture) else None
