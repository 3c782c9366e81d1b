"""The end of a search: further seeds for its front, times of the finalists, the answer, and the run
folder."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flashnas.base.errors import RunError
from flashnas.executors import Executor
from flashnas.runs.answer import Answer
from flashnas.runs.front import EXPECTED_FIGURES, FRONT_FIGURES, FrontEntry, programs_of, recorded
from flashnas.runs.trial import STATES, Trial, outcome_key
from flashnas.search.pareto import non_dominated
from flashnas.study.answer import answer_of
from flashnas.study.loop import IDLE_CYCLES, State
from flashnas.study.record import Record

AVERAGED = ("loss", "bits_per_byte")
MAX_CORRECTIONS = 3      # times that the front is drawn again because timing it corrected the predictions


def finish(state: State, executor: Executor) -> dict[str, Any]:
    """Write the front and the totals; returns the object of `search --json`. Raises RunError if no network
    could be evaluated."""
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
        beside = {standing.hash: {
            "full_loss_difference": standing.difference, "full_loss_difference_sd": standing.sd,
            "probability_best": standing.best} for standing in answer.standings}
        entries = [dataclasses.replace(entry, figures={**entry.figures, **beside.get(entry.hash, {})})
                   for entry in entries]
    front = folder.write_front(entries)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    totals = {name: record.count(name) for name in STATES}
    from_bench = sum(trial.state == "complete" and trial.from_bench for trial in record.trials)
    tokens = record.tokens()
    seconds = time.monotonic() - state.question.started
    folder.write_finished(seconds, {**totals, "from_bench": from_bench, **tokens})
    return folder.summary(front, failures)


def _to_confirm(state: State) -> list[Trial]:
    """The trials to evaluate under further seeds: the front, or, where full trainings rank, those of it that
    cannot be told from the recommended one."""
    front, answer = front_of(state), _answer(state)
    if state.question.foresight is None:
        return front
    tied = set() if answer is None else {standing.hash for standing in answer.standings if standing.tied}
    return [trial for trial in front if trial.hash in tied]


def _answer(state: State) -> Answer | None:
    """None where full trainings do not rank."""
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


# -- the front -----------------------------------------------------------------------------------------------

def front_of(state: State) -> list[Trial]:
    """The trials of the non-dominated networks, and of those that are so with the recall that is kept,
    fastest first; raises RunError where nothing has a score."""
    question, record = state.question, state.record
    scored = [(trial, values) for trial in compared(state)
              if state.correction is None or question.fitter.fits_network(record.networks[trial.hash])
              if (values := record.values_of(trial)) is not None]
    if not scored:
        reasons = "; ".join(sorted(record.failures())) or "none tried"
        raise RunError(f"{state.folder.path}: no candidate could be trained; reasons: {reasons}")
    keeping = [] if question.foresight is None else [
        (trial, values) for trial, values in scored
        if (trial.expected_recall or 0.0) >= question.config.recall_floor]
    best = {trial.hash: trial for some in (scored, keeping) if some for (trial, _), keep in zip(
        some, non_dominated(np.array([values for _, values in some])), strict=True) if keep}
    return sorted(best.values(), key=lambda trial: (trial.latency_ms or 0, trial.number))


def compared(state: State) -> list[Trial]:
    scored = "complete" if state.question.config.trials else "expected"
    return [trial for trial in state.record.trials if trial.state == scored]


def entries_of(state: State) -> list[FrontEntry]:
    """The entries of the front, with times and what they miss where the device is at hand."""
    front, question = front_of(state), state.question
    times: dict[str, dict[str, float]] = {}
    if question.model is not None and question.timing is not None:
        state.record.time([trial.hash for trial in front])
        times = state.folder.measured
    return [_entry(state, trial, times.get(trial.hash)) for trial in front]


def _entry(state: State, trial: Trial, times: dict[str, float] | None) -> FrontEntry:
    network, question = state.record.networks[trial.hash], state.question
    certificate = question.certificate if state.correction is None else state.correction.certificate
    figures = {**{name: getattr(trial, name) for name in FRONT_FIGURES}, **trial.scores}
    if trial.full_loss is not None:
        figures.update({name: getattr(trial, name) for name in EXPECTED_FIGURES})
    if trial.seeds is not None:
        figures.update(seeds=trial.seeds, loss_se=trial.loss_se)
    if certificate and question.model is not None:
        figures["bound_ms"] = certificate.bound(question.model.estimate(network), "latency_ms")
    over = None
    if times is not None:
        from flashnas.profiling.finalists import missed  # loads torch

        figures.update({"measured_" + name.removeprefix("latency_"): times[name]
                        for name in ("latency_ms", "ttft_ms", "tpot_ms")})
        over = tuple(missed(times, question.config.bounds))
    return FrontEntry(notation=trial.notation, hash=trial.hash, architecture=recorded(network),
                      figures=figures, missed=over, runs_in=programs_of(network),
                      origin={"number": trial.number, "label": trial.label or "search"},
                      **question.costs.details(network))


# -- further seeds -------------------------------------------------------------------------------------------

# One training tells networks apart only above the noise between seeds. The networks of the front are the best
# of many under one seed, and therefore partly lucky. Their means over further seeds show what they are, and
# others take the place of some, until all members have all seeds. A network that is not on the front under
# its first seed, by bad luck, is not tried again.

def train_under_seeds(record: Record, executor: Executor, members: Callable[[], Sequence[Trial]],
                      seeds: Sequence[int]) -> None:
    """Train the members of the front until it no longer changes; its trials then have means. What an earlier
    run knows as a mean of seeds is trained under the others only. members: the trials on the front by their
    figures at that moment. seeds: besides that of the search."""
    question, note = record.question, record.progress.note
    over: set[str] = set()
    while fresh := [trial for trial in members() if trial.hash not in over]:
        # the mean that an earlier run knows has the first seeds in it, which begin with that of the search
        further = {}
        for trial in fresh:
            tried = int((record.outcomes[trial.hash].score or {}).get("seeds_tried", 1))
            further[trial.hash] = seeds[tried - 1:]
        todo = {outcome_key(trial.hash, seed=seed): (trial, seed) for trial in fresh
                for seed in further[trial.hash]}
        jobs = {}
        for key, (trial, seed) in todo.items():
            network = record.networks[trial.hash]
            if key in record.outcomes:
                continue
            if (score := question.scores.score(network, seed)) is None:
                jobs[key] = question.job(network, seed)
            else:
                record.remember(network, score, seed=seed)
        if jobs:
            note(f"training {len({todo[key][0].hash for key in jobs})} networks of the front under"
                 f" {len(seeds)} further seed{'s' if len(seeds) > 1 else ''}")
        record.seeds_left = len(jobs)
        for key, ended in executor.run(jobs, on_wait=record.report):
            record.seeds_left -= 1
            trial, seed = todo[key]
            record.remember(record.networks[trial.hash], ended.result, ended.reason, seed=seed)
        for key, (trial, seed) in todo.items():
            if record.outcomes[key].score is None:
                note(f"trial {trial.number} failed under seed {seed}, which its mean leaves out:"
                     f" {record.outcomes[key].reason}")
        over.update(trial.hash for trial in fresh)
        means = {trial.hash: _mean(record, trial.hash, further[trial.hash]) for trial in fresh}
        for key, mean in means.items():
            mean.update(question.foresee(record.networks[key], mean["loss"]))
        record.trials[:] = [dataclasses.replace(trial, **means.get(trial.hash, {}))
                            for trial in record.trials]
    record.report(now=True)
    record.write()


def _mean(record: Record, key: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of a trial that seeds change. The first outcome may be a mean itself, which counts as often
    as it has seeds."""
    fields = [outcome.fields() for each in (key, *(outcome_key(key, seed=seed) for seed in seeds))
              if (outcome := record.outcomes[each]).score is not None]
    counts = np.array([values.get("seeds") or 1 for values in fields])
    number = int(counts.sum())

    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=counts))

    means: dict[str, Any] = {name: mean([values[name] for values in fields]) for name in AVERAGED
                             if all(values.get(name) is not None for values in fields)}
    scores = {name: mean([values["scores"][name] for values in fields])
              for name in fields[0].get("scores", {})}
    squares = sum(count * (values["loss"] - means["loss"])**2
                  + count * (count - 1) * (values.get("loss_se") or 0.0)**2
                  for count, values in zip(counts, fields, strict=True))
    return {**means, "scores": scores, "seeds": number,
            "loss_se": float(math.sqrt(squares / (number - 1) / number)) if number > 1 else None}
