"""A search without cycles: as soon as a worker is free, it trains on a paused candidate, or the sampler is asked for
the next one with what is known at that moment.

No worker waits for the slowest training of a cycle. What is lost is the trajectory: it depends on when workers finish,
so that the same seed gives other candidates in the next run. Everything else is as in cycles: nothing is trained twice,
what ended is in the database at once, and tokens are counted once.

A proposed candidate is recorded before its training. A continued search therefore knows all genotypes: it gives the
algorithm what has ended, in the order of the database, and trains what has not.

Rungs are those of asynchronous successive halving (ASHA, arXiv 1810.05934), with the chance of entering the front in
place of a fixed share. A paused candidate that has too small a chance is told to the algorithm with its expected loss,
and stays on a list. Its chance is computed again whenever something has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.base.errors import RunError
from flashnas.executors.base import Flow
from flashnas.runs.layout import ASKED
from flashnas.runs.trial import Trial, outcome_key
from flashnas.search.pareto import standings
from flashnas.search.rungs import Pause
from flashnas.study.session import IDLE_CYCLES, Session, evaluation_of
from flashnas.study.trajectory import Candidate, Stopped

MOST_PAUSED = 64    # candidates at a rung whose chance is computed again; those with less of it stop for good


@dataclass
class Asked:
    """A candidate on its way to a trial.

    number: of the proposal, from 1; 0 of a baseline. genotype: None of a baseline, which the algorithm does not learn.
    pending: the algorithm waits for it; else it was proposed in an earlier part of the run, or comes from another run.
    place: of its trial, once it has one.
    """

    candidate: Candidate
    number: int = 0
    genotype: Any | None = None
    pending: bool = False
    place: int | None = None

    @property
    def key(self) -> str:
        assert self.candidate.architecture is not None
        hashed: str = self.candidate.architecture.hash
        return hashed


class AsynchronousSearch:
    """The loop of an asynchronous search.

    Args:
        study: the search, with nothing evaluated yet.
    """

    def __init__(self, study: Session) -> None:
        self.study, self.question, self.trajectory = study, study.question, study.trajectory
        self.rungs = study.question.rungs
        self._open: dict[str, Asked] = {}                  # networks without an outcome, or with a decision to come
        self._queue: deque[tuple[Asked, int | None]] = deque()            # .. of them, those that wait for a worker, ..
        self._running: dict[str, tuple[Asked, int | None]] = {}           # .. and those in training, to which rung
        self._same: dict[str, list[Asked]] = {}            # other candidates with the network of an open one
        self._paused: dict[int, dict[str, Asked]] = {rung: {} for rung in self.rungs.tokens}
        self._stops = dict.fromkeys(self.rungs.tokens, 0)  # at each rung since somebody trained on from there
        self._worthy: deque[tuple[int, str]] = deque()     # paused candidates that are to train on, the best first
        self._points: list[tuple[float, ...]] = []         # objectives of the finished networks, ..
        self._curves: list[Any] = []                       # .. and curves of those that were trained here
        self._changed, self._begun = True, False           # since chances were computed
        self._number, self._idle, self._unwritten = 0, 0, 0

    def run(self) -> None:
        """Evaluate all candidates; the trials of the trajectory are then complete."""
        self._begin()
        self._begun = True
        flow = self.study.pool.flow()
        try:
            self._fill(flow)
            while flow.busy:
                for key, ended in flow.ended():
                    self._end(key, ended.result, ended.reason)
                self._fill(flow)
                self.trajectory.report()
        finally:
            flow.close()
        self._write()

    # -- the start -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Queue the baselines, take over what is known, and queue what was proposed and has not ended."""
        study, recorded = self.study, self.study.folder.asked()
        if recorded:  # the draws of another seed: the old ones would propose the same again
            fresh = np.random.SeedSequence([self.question.config.seed, len(recorded)]).generate_state(1)
            study.algorithm = self.question.algorithm(int(fresh[0]))
        for label, network in study.baselines:
            self._admit(Asked(Candidate("baseline", label, {}, network)))
        before = len(self.trajectory.trials)
        study.start_from_bench()
        for trial in self.trajectory.trials[before:]:
            self._note_finished(trial)
        if recorded:
            self._restore(recorded)
        else:
            first = list(dict.fromkeys([*study.expected(), *study.refits()]))
            self._propose(first[:self.question.config.trials], pending=False)

    def _restore(self, recorded: list[dict[str, Any]]) -> None:
        ends = {outcome.hash: place for place, outcome in enumerate(self.trajectory.outcomes.values())
                if outcome.seed is None}
        asked = [self._asked(self.question.space.decode(entry["genotype"]), entry["number"], pending=False)
                 for entry in recorded]
        networks = {one.key for one in asked if one.candidate.architecture is not None}
        if unknown := set(ends) - networks - set(self.trajectory.networks):
            raise RunError(f"{self.study.folder.path / ASKED}: lacks {len(unknown)} of the {len(ends)} networks that"
                           f" {self.study.folder.database.place} holds; restore it, or choose another --out")
        self._number = max(one.number for one in asked)
        with self.study.sampler_errors():
            self.study.algorithm.exclude([one.genotype for one in asked])
        for one in sorted(asked, key=lambda one: len(ends) if one.candidate.architecture is None else
                          ends.get(one.key, len(ends))):
            self._admit(one)
        self._decide()
        self._stops = dict.fromkeys(self._stops, 0)  # what stopped in an earlier part of the run is not counted again

    # -- candidates ----------------------------------------------------------------------------------------------

    def _asked(self, genotype: Any, number: int, *, pending: bool) -> Asked:
        encoded, network = self.question.space.encode(genotype), self.question.fitter.latency_of(genotype)[0]
        return Asked(Candidate("search", "", encoded, network), number, genotype, pending)

    def _propose(self, genotypes: list[Any], *, pending: bool) -> None:
        """Record candidates, then take them in."""
        if not genotypes:
            return
        asked = [self._asked(genotype, self._number + place, pending=pending)
                 for place, genotype in enumerate(genotypes, start=1)]
        self._number += len(asked)
        self.study.folder.record_asked([{"number": one.number, "genotype": one.candidate.genotype} for one in asked])
        for one in asked:
            self._idle = 0 if self._admit(one) else self._idle + 1

    def _admit(self, asked: Asked) -> bool:
        """Queue a candidate, or make it a trial if its outcome is known. True if its network is a new one."""
        network, trajectory = asked.candidate.architecture, self.trajectory
        if network is None:
            self._place(asked)
            return False
        key = asked.key
        trajectory.networks.setdefault(key, network)
        if key in self._open:
            self._same.setdefault(key, []).append(asked)
            return False
        if key in trajectory.placed:
            self._place(asked)
            return False
        self._open[key] = asked
        if key not in trajectory.outcomes and (known := trajectory.known_score(network)) is not None:
            trajectory.remember(asked.candidate, known, "")
        if key in trajectory.outcomes:
            trajectory.tally.ended(trajectory.outcomes[key])
            self._finish(asked)
            return True
        rungs = self.rungs.tokens if asked.candidate.origin == "search" else ()
        reached = [rung for rung in rungs if outcome_key(key, rung=rung) in trajectory.outcomes]
        if reached:
            trajectory.tally.ended(trajectory.outcomes[outcome_key(key, rung=reached[-1])])
            self._paused[reached[-1]][key] = asked
        else:
            self._queue.append((asked, rungs[0] if rungs else None))
        return True

    # -- the loop ------------------------------------------------------------------------------------------------

    def _fill(self, flow: Flow) -> None:
        """Give every free worker something to do: a paused candidate that is worth it, what waits, a new candidate."""
        while True:
            if self._changed:
                self._decide()
            room = flow.room
            if not room:
                return
            if self._worthy:
                self._train_on(flow, *self._worthy.popleft())
            elif self._queue:
                self._submit(flow, *self._queue.popleft())
            elif count := min(room, self._left()):
                with self.study.sampler_errors():
                    genotypes = self.study.algorithm.ask(count)
                self._propose(genotypes, pending=True)
            else:
                return

    def _left(self) -> int:
        """How many candidates may still be drawn; 0 where the space is exhausted."""
        config = self.question.config
        if self._idle >= IDLE_CYCLES * config.cycle_size:
            self.study.idle = IDLE_CYCLES
            return 0
        open_ = sum(one.candidate.origin == "search" and one.place is None for one in self._open.values())
        return max(0, config.trials - self.trajectory.evaluated - open_)

    def _submit(self, flow: Flow, asked: Asked, rung: int | None) -> None:
        self._running[asked.key] = asked, rung
        flow.submit(asked.key, self.trajectory.job_of(asked.candidate, rung))

    def _end(self, key: str, score: dict[str, Any] | None, reason: str) -> None:
        """Record what a worker has finished."""
        asked, rung = self._running.pop(key)
        if score is None:
            rung = None
        self.trajectory.remember(asked.candidate, score, reason, rung)
        self._changed = True
        if rung is None:
            self._finish(asked)
        else:
            self._paused[rung][key] = asked

    def _finish(self, asked: Asked) -> None:
        """The outcome of a network is known."""
        trial = self._place(asked) if asked.place is None else self._replace(asked)
        self._note_finished(trial)
        if self.rungs.tokens:
            self.study.folder.remove_checkpoints({asked.key})
        self._close(asked.key)

    def _close(self, key: str) -> None:
        del self._open[key]
        for other in self._same.pop(key, ()):
            self._place(other)

    # -- trials --------------------------------------------------------------------------------------------------

    def _place(self, asked: Asked) -> Trial:
        """Make it a trial, and tell the algorithm."""
        trial = self.trajectory.place(asked.number, asked.candidate)
        asked.place = trial.number
        if asked.genotype is not None:
            evaluation = self._evaluation(asked, trial)
            with self.study.sampler_errors():
                if asked.pending:
                    self.study.algorithm.tell([evaluation], in_order=False)
                else:
                    self.study.algorithm.start_from([evaluation])
        self._unwritten += 1
        if self._unwritten >= self.question.config.cycle_size:
            self._write()
        return trial

    def _replace(self, asked: Asked) -> Trial:
        """Put what is known now in the place of its trial, which said that it had stopped."""
        trial = self.trajectory.place(asked.number, asked.candidate, at=asked.place)
        with self.study.sampler_errors():
            self.study.algorithm.correct(self._evaluation(asked, trial))
        return trial

    def _evaluation(self, asked: Asked, trial: Trial) -> Any:
        return evaluation_of(asked.genotype, asked.candidate, trial, self.question.config.objectives)

    def _write(self) -> None:
        """trials.parquet is written as often as in cycles; the database has each outcome at once."""
        self._unwritten = 0
        self.study.folder.write_trials(self.trajectory.trials)

    def _note_finished(self, trial: Trial) -> None:
        """Keep what the decisions at rungs compare with."""
        if self.rungs.tokens and trial.state == "complete" and trial.loss is not None:
            self._points.append(self.trajectory.point_of(trial.hash, trial.loss))
            if not trial.from_bench:
                self._curves.append(trial.curve)

    # -- rungs ---------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Compute all chances again: who trains on as soon as there is a worker, and who stops."""
        self._changed = False
        self._worthy.clear()
        for rung in reversed(self.rungs.tokens):
            if not (paused := list(self._paused[rung])):
                continue
            found, places = self._chances(rung, paused)
            worthy = [key for key in paused if found.promoted[places[key]]]
            for key in paused:
                if key not in worthy and key not in self.trajectory.stopped:
                    self._stop(rung, key, float(found.losses[places[key]]), float(found.sds[places[key]]))
            stops = self._stops[rung] if self._begun else 0
            if not worthy and stops >= self.question.config.cycle_size:  # forecasts need finished trainings
                worthy = [self._best(found, places, paused)]
            ordered = sorted(paused, key=lambda key: -found.chances[places[key]])
            self._worthy.extend((rung, key) for key in ordered if key in worthy)
            for key in [key for key in ordered if key not in worthy][MOST_PAUSED:]:
                del self._paused[rung][key]
                self.study.folder.remove_checkpoints({key})

    def _chances(self, rung: int, paused: list[str]) -> tuple[Pause, dict[str, int]]:
        """The decision about the candidates at a rung, and the place of each in it: besides the paused ones, those in
        training that came past this rung."""
        outcomes = self.trajectory.outcomes
        keys = [*paused, *(key for key in self._running if outcome_key(key, rung=rung) in outcomes)]
        curves = [(outcomes[outcome_key(key, rung=rung)].score or {})["curve"] for key in keys]
        found = self.rungs.decide(curves, [self.trajectory.point_of(key, 0.0)[1:] for key in keys],
                                  finished=self._points, curves=self._curves, at_least_one=False)
        return found, {key: place for place, key in enumerate(keys)}

    def _best(self, found: Pause, places: dict[str, int], paused: list[str]) -> str:
        """As in a cycle without anybody who has the chance."""
        own = [places[key] for key in paused]
        costs = [self.trajectory.point_of(key, 0.0)[1:] for key in paused]
        order = np.lexsort((standings(np.column_stack([found.losses[own], costs])), -found.chances[own]))
        return paused[int(order[0])]

    def _stop(self, rung: int, key: str, loss: float, sd: float) -> None:
        """Tell the algorithm what is expected of a candidate that does not train on for now."""
        self._stops[rung] += 1
        self.trajectory.stop(key, Stopped(rung, loss, sd))
        asked = self._open[key]
        if asked.place is None:
            self._place(asked)
        else:
            self._replace(asked)
        self._close(key)

    def _train_on(self, flow: Flow, rung: int, key: str) -> None:
        """Send a paused candidate to the next rung, or to the end."""
        asked = self._paused[rung].pop(key)
        self._stops[rung] = 0
        if key in self.trajectory.stopped:
            self.trajectory.reopen(key)
        self._open[key] = asked
        later = [other for other in self.rungs.tokens if other > rung]
        self._submit(flow, asked, later[0] if later else None)
