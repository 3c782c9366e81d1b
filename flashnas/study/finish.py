"""What came of a search: its front, its answer, and what the run folder holds of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.families.programs import loading
from flashnas.run_folder.front import thinned
from flashnas.run_folder.recorded_answer import Answer, Bought
from flashnas.study.answer import answer_of, differences_to
from flashnas.study.as_good import beside_model
from flashnas.study.dense_or_sparse import dense_or_sparse
from flashnas.study.explore import Explored
from flashnas.study.record import Record
from flashnas.study.rivals import rivals_of
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


def finish(
    record: Record, explored: Explored, purchases: Sequence[Bought], note: Callable[[str], None]
) -> Finished:
    """Write the trials, the front, the answer and the totals.

    Args:
        explored: the networks of the space that have what ranks.
        purchases: what the search trained because it was expected to improve the answer.

    Raises:
        RunError: no network could be evaluated.
    """
    problem, folder, scorer = record.problem, record.folder, record.scorer
    trials, rivals = add_expected(record, explored)
    folder.write_trials(record.trials)
    failed = Counter(trial.reason for trial in record.trials if trial.state == "failed")
    failures = dict(failed.most_common())
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    if not explored.networks:
        raise RunError(
            f"{folder.path}: no candidate could be trained; reasons:"
            f" {'; '.join(sorted(failures)) or 'none tried'}"
        )
    best = None if scorer is None else trials[explored.networks[explored.best].hash]
    front = [trials[explored.networks[index].hash] for index in explored.front]
    front, best = shown_figures(record, front, best, note)
    answer = None
    if scorer is not None and best is not None:
        answer = dataclasses.replace(
            answer_of(problem, scorer, explored, front, best, rivals, purchases),
            dense_or_sparse=dense_or_sparse(problem, scorer, explored),
            as_good=beside_model(problem, best.architecture),
        )
    written = folder.write_front(front, best)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    done = [trial for trial in record.trials if trial.state == "complete"]
    known = sum(trial.computed_elsewhere for trial in done)
    tokens = sum(trial.tokens or 0 for trial in done if not trial.computed_elsewhere)
    totals = {name: record.count(name) for name in STATES}
    seconds = time.monotonic() - problem.started
    folder.write_finished(seconds, {**totals, "known": known, "tokens": tokens})
    summary = folder.summary(written, best, failures)
    return Finished(
        path=folder.path,
        config=folder.config,
        trials=record.trials,
        encode=problem.space.encode,
        front=written,
        answer=answer,
        summary=summary,
    )


def add_expected(record: Record, explored: Explored) -> tuple[dict[str, Trial], dict[str, Trial]]:
    """Trials of the front, of the recommended network and of what it is compared with, as far as
    they have none. Returns those of the space by the hash of their network, and the last ones by
    title, the best one first."""
    problem = record.problem
    rivals = {} if problem.each else rivals_of(problem, record.scorer, explored)
    proposed = []
    if not problem.each:
        for index in dict.fromkeys([*explored.front, explored.best]):
            genotype, network = explored.genotypes[index], explored.networks[index]
            proposed.append(Trial.of(network, genotype=genotype))
        for title, network in rivals.items():
            proposed.append(Trial.of(network, origin="baseline", label=title))
    for trial in proposed:
        if trial.hash not in record.recorded:
            record.add(trial)
    scored = [
        trial for trial in reversed(record.trials) if trial.complete and trial.state != "failed"
    ]
    of_space = {trial.hash: trial for trial in scored if trial.origin != "baseline"}
    if problem.each:  # the baselines were trained
        trained = [trial for trial in scored if trial.origin == "baseline"]
        return of_space, {
            trial.label: trial for trial in sorted(trained, key=lambda trial: trial.point)
        }
    every = {trial.hash: trial for trial in scored}
    return of_space, {
        title: every[network.hash]
        for title, network in rivals.items()
        if network.hash in every  # its training may have failed
    }


def shown_figures(
    record: Record, front: Sequence[Trial], best: Trial | None, note: Callable[[str], None]
) -> tuple[list[Trial], Trial | None]:
    """The front and the recommended network with the parts of their latency, the programs that run
    them, and their differences to the latter; those of a table with what was measured, where the
    device is at hand and something was trained."""
    problem, scorer = record.problem, record.scorer
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
        found |= {trial.hash: trial for trial in with_times(problem, record.folder, timed, note)}
    return [found[trial.hash] for trial in front], None if best is None else found[best.hash]


def programs_of(network: Any) -> dict[str, str] | None:
    """`runs_in` of a network; None of a network of a foreign space."""
    return loading(network) if isinstance(network, Architecture) else None
