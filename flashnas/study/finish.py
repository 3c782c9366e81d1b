"""The end of a search: further seeds for its front, times of the finalists, the answer, and the run
folder."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from flashnas.executors import Executor
from flashnas.runs.answer import Answer
from flashnas.runs.trial import Trial
from flashnas.study.answer import answer_of
from flashnas.study.front import compared, entries_of, front_of
from flashnas.study.loop import IDLE_CYCLES, State
from flashnas.study.record import Candidate
from flashnas.study.seeds import train_under_seeds

STATES = ("complete", "stopped", "failed", "reused", "infeasible", "expected")
MAX_FRONT = 12           # networks of a front that nothing was trained for
MAX_CORRECTIONS = 3      # times that the front is drawn again because timing it corrected the predictions


def answer_by_evidence(state: State) -> None:
    """Trials of the networks that published trainings expect to be the best, and of the pure stacks: all
    there is in a search that trains nothing."""
    told, record = state.question.foretold, state.record
    assert told is not None
    front = told.front(state.question.config.recall_floor)
    places = dict.fromkeys([*told.spread(front, MAX_FRONT), *told.front(None)[-1:]])
    for candidate in (*state.baselines(), *(Candidate("search", "", told.networks[place],
                                                      told.genotypes[place])
                                            for place in places)):
        if candidate.network is not None and candidate.key not in record.placed:
            record.networks[candidate.key] = candidate.network
            record.place(candidate)
    record.write()


def finish(state: State, executor: Executor) -> dict[str, Any]:
    """Write the front and the totals; returns the object of `search --json`.

    Raises:
        RunError: if no network could be evaluated.
    """
    record, folder, config = state.record, state.folder, state.question.config
    note = record.progress.note
    if state.exhausted:
        note(f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the budget")
    failures = record.failures()
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    folder.remove_checkpoints()
    record.searching = False
    if further := range(config.seed + 1, config.seed + (config.seeds or 1)):
        train_under_seeds(record, executor, lambda: _to_confirm(state), further)
    entries = entries_of(state)
    for _ in range(MAX_CORRECTIONS):
        if not state.correct([entry.hash for entry in entries]):
            break
        entries = entries_of(state)
    answer = _answer(state)
    if answer is not None:
        standings = {standing.hash: standing for standing in answer.standings}
        entries = [entry if (standing := standings.get(entry.hash)) is None else
                   dataclasses.replace(entry, figures={
            **entry.figures, "full_loss_difference": standing.difference,
            "full_loss_difference_sd": standing.sd, "probability_best": standing.best}) for entry in entries]
    front = folder.write_front(entries)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    totals = {name: record.count(name) for name in STATES}
    from_bench = sum(trial.state == "complete" and trial.from_bench for trial in record.trials)
    tokens = record.tokens()
    seconds = time.time() - state.question.started
    folder.write_finished(seconds, {**totals, "from_bench": from_bench, **tokens})
    return {"run": str(folder.path),
            "front": [{"config": str(entry.path), "notation": entry.notation, "hash": entry.hash,
                       **entry.figures,
                       **({} if entry.missed is None else {"missed": list(entry.missed)})}
                       for entry in front],
            **({} if answer is None else {"answer": answer.to_dict()}),
            "trials": totals, "from_bench": from_bench, "failures": failures, "seconds": round(seconds, 1),
            **tokens}


def _to_confirm(state: State) -> list[Trial]:
    """The trials that are evaluated under further seeds: of the front, or, where full trainings rank, those
    of it that cannot be told from the recommended one."""
    front, answer = front_of(state), _answer(state)
    if state.question.foresight is None:
        return front
    tied = set() if answer is None else {standing.hash for standing in answer.standings if standing.tied}
    return [trial for trial in front if trial.hash in tied]


def _answer(state: State) -> Answer | None:
    """What the search recommends; None where it does not rank by full trainings."""
    question, record, told = state.question, state.record, state.question.foretold
    if question.foresight is None or told is None:
        return None
    best = told.best(question.config.recall_floor)
    return answer_of(
        question.foresight, front_of(state),
        [trial for trial in compared(state) if trial.origin == "baseline"],
        record.networks, min_recall=question.config.recall_floor,
        budget_ms=question.config.budgets.get("latency_ms"),
        before="" if best is None else told.networks[best].notation,
        untrained=[told.networks[place] for place in told.front(question.config.recall_floor)
                   if told.networks[place].hash not in record.outcomes])
