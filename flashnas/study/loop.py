"""The loop of a search, and its state: the candidates on their way from a proposal to a trial.

A candidate waits for a worker, runs, pauses at rungs, and ends as a trial, which the algorithm learns: in
cycles, or each on its own way (`asynchronous.py`). In cycles candidates are drawn together, and told together
in the order drawn. That trajectory does not depend on workers or interruptions: a continued run replays it,
and what its database holds is not evaluated again.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from flashnas.base.registry import foreign_errors
from flashnas.base.settings import MAX_SEED
from flashnas.executors.base import Ended, Executor, Flow
from flashnas.runs.trial import outcome_key
from flashnas.search.pareto import non_dominated
from flashnas.search.rungs import Pause, decide
from flashnas.study.record import Candidate, Record, Stopped
from flashnas.study.self_correction import SelfCorrection

MAX_FRONT = 12           # networks of a front that nothing was trained for
IDLE_CYCLES = 20         # cycles in a row without anything new: the space is exhausted


def search(state: State, executor: Executor) -> None:
    with contextlib.closing(Flow(executor)) as flow:
        while True:
            while (job := state.next_job(flow)) is not None:
                flow.submit(*job)
            if not flow.busy:
                break
            for key, ended in flow.ended():
                state.end(key, ended)
            state.record.report()
    state.record.report(now=True)
    state.record.write()


class State(ABC):
    """One search. Of its candidates: queue, those that wait for a worker, with the rung to which they train
    (None: to the end); running, the same in training, by hash; paused, at each rung, by hash; idle, those in
    a row that were nothing new."""

    def __init__(self, record: Record) -> None:
        self.record, self.question, self.folder = record, record.question, record.folder
        config = self.question.config
        self.correction = None if config.measure_every is None or self.question.model is None else (
            SelfCorrection(self.question))
        self.rungs = self.question.rungs.tokens
        self.queue: deque[tuple[Candidate, int | None]] = deque()
        self.running: dict[str, tuple[Candidate, int | None]] = {}
        self.paused: dict[int, dict[str, Candidate]] = {rung: {} for rung in self.rungs}
        self.idle = 0

    @abstractmethod
    def next_job(self, flow: Flow) -> tuple[str, Any] | None:
        """Key and job of the next evaluation; None: something has to end first, or all is done."""

    @abstractmethod
    def finish(self, candidate: Candidate) -> None:
        """The outcome of a candidate is known."""

    # -- evaluations -----------------------------------------------------------------------------------------

    def meet(self, candidate: Candidate) -> None:
        self.record.networks.setdefault(candidate.key, candidate.network)
        if candidate.key not in self.record.outcomes:
            score = self.question.scores.score(candidate.network)
            if score is not None:
                self.record.remember(candidate.network, score, candidate=candidate)

    def send(self, candidate: Candidate, rung: int | None) -> None:
        """To a rung, or to its end: it is there already if that is recorded, else it waits for a worker."""
        if rung is not None and self.reached(candidate.key, rung):
            self.paused[rung][candidate.key] = candidate
        elif candidate.key in self.record.outcomes:
            self.finish(candidate)
        else:
            self.queue.append((candidate, rung))

    def reached(self, key: str, rung: int) -> bool:
        """True if the training of a network paused at a rung, or went on from there."""
        return outcome_key(key, rung=rung) in self.record.outcomes

    def after(self, rung: int) -> int | None:
        return next((later for later in self.rungs if later > rung), None)

    def start(self, candidate: Candidate, rung: int | None) -> tuple[str, Any]:
        self.running[candidate.key] = candidate, rung
        return candidate.key, self.record.job(candidate, rung)

    def end(self, key: str, ended: Ended) -> None:
        candidate, rung = self.running.pop(key)
        self.record.remember(candidate.network, ended.result, ended.reason, rung=rung, candidate=candidate)
        if rung is None or ended.result is None:
            self.finish(candidate)
        else:
            self.paused[rung][key] = candidate
        self.record.report()

    def judge(self, rung: int, keys: Sequence[str], further: Iterable[str] = (), *,
              at_least_one: bool = True) -> Pause:
        """The chances of networks at a rung, by `flashnas.search.rungs.decide`. further: networks that are
        finished besides those with a trial."""
        record, finished = self.record, list(self.record.finished.values())
        finished += [(record.point_of(key, (record.outcomes[key].score or {})["loss"]), None)
                     for key in further]
        curves = [(record.outcomes[outcome_key(key, rung=rung)].score or {})["curve"] for key in keys]
        rungs = self.question.rungs
        return decide(
            curves, [record.point_of(key, 0.0)[1:] for key in keys],
            finished=[values for values, _ in finished], tokens=rungs.whole, chance=rungs.chance,
            curves=[*rungs.curves, *(curve for _, curve in finished if curve is not None)],
            at_least_one=at_least_one)

    def stop(self, key: str, rung: int, pause: Pause, place: int) -> None:
        self.record.stopped[key] = Stopped(rung, float(pause.losses[place]), float(pause.sds[place]))

    # -- the algorithm ---------------------------------------------------------------------------------------

    @functools.cached_property
    def algorithm(self) -> Any:
        """Made when it is first asked: a run that had ended, or trains nothing, does not need it."""
        return self._algorithm(self.question.config.seed)

    def _algorithm(self, seed: int) -> Any:
        algorithm = self.question.algorithm(seed)
        if (prior := self.question.prior()) is not None:
            algorithm.use_prior(prior)
        return algorithm

    def sampler_errors(self) -> AbstractContextManager[None]:
        """What code of another package raises in a call of the algorithm is one line."""
        return foreign_errors(("sampler", self.algorithm), *self.question.foreign())

    @property
    def exhausted(self) -> bool:
        return self.idle >= IDLE_CYCLES * self.question.config.cycle_size

    def ask(self, count: int) -> list[Any]:
        with self.sampler_errors():
            return list(self.algorithm.ask(count))

    def learn(self, candidates: Sequence[Candidate], *, in_order: bool = True) -> None:
        """Tell the algorithm of trials: of those that it waits for, or of some that it did not propose."""
        evaluations = [self.record.evaluation(candidate) for candidate in candidates
                       if candidate.genotype is not None]
        with self.sampler_errors():
            if evaluations and not candidates[0].pending:
                self.algorithm.start_from(evaluations)
            elif evaluations and in_order:
                self.algorithm.tell(evaluations)
            elif evaluations:
                self.algorithm.tell(evaluations, in_order=False)

    def candidate(self, genotype: Any, number: int, *, pending: bool) -> Candidate:
        """A proposal at the largest width within the budgets."""
        return Candidate("search", "", self.question.fitter.latency_of(genotype)[0], genotype, number,
                         pending)

    # -- what is evaluated besides the proposals of the algorithm --------------------------------------------

    def baselines(self) -> list[Candidate]:
        return [Candidate("baseline", label, network) for label, network in self.question.baselines]

    def start_from_bench(self) -> None:
        """Make trials of the known networks of the space within the budgets. The algorithm learns those that
        it would propose, which have the largest width, from the highest loss to the lowest."""
        candidates = [Candidate("bench", label, network, genotype)
                      for genotype, network, label in self.question.known_networks()
                      if network.hash not in self.record.networks]  # else it is a baseline
        if not candidates:
            return
        for candidate in candidates:
            self.meet(candidate)
        for candidate in candidates:
            self.record.place(candidate)
        self.record.write()
        self.record.report()
        losses = {candidate.key: self.record.trials[candidate.place or 0].loss or 0.0
                  for candidate in candidates}
        self.learn(sorted(filter(self._fits_best, candidates), key=lambda candidate: -losses[candidate.key]))

    def _fits_best(self, candidate: Candidate) -> bool:
        return bool(self.question.fitter.latency_of(candidate.genotype)[0] == candidate.network)

    def answer_by_evidence(self) -> None:
        """Trials of the networks that published trainings expect to be the best, and of the pure stacks."""
        told, record = self.question.foretold, self.record
        assert told is not None
        places = dict.fromkeys([*told.spread(told.front(self.question.config.recall_floor), MAX_FRONT),
                                *told.front(None)[-1:]])
        for candidate in (*self.baselines(), *(Candidate("search", "", told.networks[place],
                                                         told.genotypes[place]) for place in places)):
            if candidate.network is not None and candidate.key not in record.placed:
                record.networks[candidate.key] = candidate.network
                record.place(candidate)
        record.write()

    def expected(self) -> list[Any]:
        """The genotypes that publications expect to be the best, the recommended one first: their trainings
        are the most likely to change the answer."""
        question, told = self.question, self.question.foretold
        return [] if told is None else [
            told.genotypes[place] for place in told.nearest(question.config.recall_floor,
                                                            question.config.cycle_size)]

    def resized(self) -> list[Any]:
        points = np.array([values for trial in self.record.trials if trial.state == "complete"
                           and (values := self.record.values_of(trial)) is not None]
                          ).reshape(-1, len(self.question.config.objectives))
        return self.question.resized(points[non_dominated(points)])

    # -- corrections of the latency --------------------------------------------------------------------------

    def correct(self, further: Sequence[str] = ()) -> bool:
        """Time what is due and `further` hashes, and search on by a correction that is fitted to all timed
        networks; True if it is another. The algorithm then starts afresh from the trials whose networks have
        the width that the corrected latency allows. A continued run makes the same corrections."""
        correction, record = self.correction, self.record
        if correction is None:
            return False
        due = list(dict.fromkeys([*correction.due(record.trials), *further]))
        record.time(due)
        times = self.folder.measured
        if not correction.update([(record.networks[key], times[key]) for key in due if key in times],
                                 len(record.trials)):
            return False
        record.cost_again()
        self.folder.write_config(corrections=[vars(version) for version in correction.versions])
        record.progress.note(str(correction.versions[-1]))
        seed = self.question.config.seed + len(correction.versions)
        self.algorithm = self._algorithm(seed % (MAX_SEED + 1))
        fitting = [candidate for candidate in record.candidates
                   if candidate.genotype is not None and self._fits_best(candidate)]
        evaluations = [record.evaluation(candidate) for candidate in fitting]
        with self.sampler_errors():
            self.algorithm.start_from(evaluations)
        return True


class Cycles(State):
    """A cycle is a barrier: the next decision falls when all candidates have come as far as they may."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self._cycles, self._number = self.all_cycles(), 0
        self._cycle: list[Candidate] = []   # the candidates of this cycle, ..
        self._new: dict[str, Candidate] = {}    # .. and those of them whose networks are new, by hash

    def next_job(self, flow: Flow) -> tuple[str, Any] | None:
        while not self.queue:
            if flow.busy:
                return None
            if any(self.paused.values()):
                self._decide()
            elif self._cycle:
                self.end_cycle()
            elif (cycle := next(self._cycles, None)) is not None:
                self._begin_cycle(cycle)
            else:
                return None
        return self.start(*self.queue.popleft())

    def finish(self, candidate: Candidate) -> None:
        """It becomes a trial with the others of its cycle."""

    # -- cycles ----------------------------------------------------------------------------------------------

    def all_cycles(self) -> Iterator[list[Candidate]]:
        yield self.baselines()
        self.start_from_bench()
        yield self.drawn(self.expected()[:self._left], pending=False)
        left = self.resized()
        while left and self._left:
            drawn, left = left[:self._left], left[self._left:]
            yield self.drawn(drawn, pending=False)
        while count := self._left:
            yield self.drawn(self.ask(count), pending=True)

    @property
    def _left(self) -> int:
        """How many candidates the next cycle has; 0 when enough are evaluated or the space is exhausted."""
        config = self.question.config
        return 0 if self.exhausted else max(0, min(config.cycle_size, config.trials - self.record.evaluated))

    def drawn(self, genotypes: Sequence[Any], *, pending: bool) -> list[Candidate]:
        self._number += bool(genotypes)
        return [self.candidate(genotype, self._number, pending=pending) for genotype in genotypes]

    def _begin_cycle(self, cycle: list[Candidate]) -> None:
        self._cycle, self._new = cycle, {}
        for candidate in cycle:
            if candidate.network is not None and candidate.key not in self.record.placed:
                self._new.setdefault(candidate.key, candidate)
        for candidate in self._new.values():
            self.meet(candidate)
        for candidate in self._new.values():
            self.send(candidate, self.rungs[0] if self.rungs and candidate.origin == "search" else None)

    def end_cycle(self) -> None:
        """All candidates become trials, in the order drawn, and the algorithm learns of them."""
        cycle, before, self._cycle = self._cycle, self.record.searched, []
        for candidate in cycle:
            self.record.place(candidate)
        self.record.write()
        if self.rungs:
            self.folder.remove_checkpoints(self._new)
        self.record.report()
        if cycle[0].origin == "search":
            self.idle = self.idle + self.question.config.cycle_size if self.record.searched == before else 0
        self.learn(cycle)
        if cycle[0].pending:
            self.correct()

    def _decide(self) -> None:
        """Who of the candidates at a rung trains on, and who stops. A decision sees the networks of earlier
        cycles, those of this one that a bench knows, and its curves to the rung, which do not depend on the
        order of completion."""
        rung = next(rung for rung in self.rungs if self.paused[rung])
        keys = [key for key in self._new if key in self.paused[rung]]
        self.paused[rung].clear()
        from_bench = [key for key in self._new
                      if key in self.record.outcomes and self.record.outcomes[key].from_bench]
        pause = self.judge(rung, keys, from_bench)
        for place, key in enumerate(keys):
            if pause.promoted[place]:
                self.send(self._new[key], self.after(rung))
            else:
                self.stop(key, rung, pause, place)
