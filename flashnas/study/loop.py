"""The loop of a search, in cycles: candidates are drawn together, evaluated side by side, and
learned by the algorithm in the order drawn.

The trajectory does not depend on workers or interruptions: a continued run replays it, and what its
database holds is not evaluated again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from flashnas.base.registry import foreign_errors
from flashnas.executors.base import Executor
from flashnas.study.record import Candidate, Record

MAX_FRONT = 12  # networks of a front that nothing was trained for
IDLE_CYCLES = 20  # cycles in a row without anything new: the space is exhausted


class Loop:
    """One search. idle: cycles in a row with nothing new."""

    def __init__(self, record: Record) -> None:
        self.record, self.question, self.folder = record, record.question, record.folder
        self.idle = 0

    def search(self, executor: Executor) -> None:
        for cycle in self._cycles():
            self._run(cycle, executor)
        self.record.report(now=True)
        self.record.write()

    # -- cycles ------------------------------------------------------------------------------------

    def _cycles(self) -> Iterator[list[Candidate]]:
        if baselines := self._baselines():
            yield baselines
        self._start_from_known()
        if first := self._expected()[: self._left]:
            yield self._drawn(first, pending=False)
        while count := self._left:
            with self._sampler_errors():
                genotypes = list(self.algorithm.ask(count))
            yield self._drawn(genotypes, pending=True)

    @property
    def exhausted(self) -> bool:
        return self.idle >= IDLE_CYCLES

    @property
    def _left(self) -> int:
        """How many candidates the next cycle has; 0 when enough are evaluated or the space is
        exhausted.
        """
        config = self.question.config
        return (
            0
            if self.exhausted
            else max(0, min(config.cycle_size, config.trials - self.record.evaluated))
        )

    def _run(self, cycle: Sequence[Candidate], executor: Executor) -> None:
        """Evaluate the new networks of a cycle; then all candidates become trials, in the order
        drawn, and the algorithm learns of them."""
        record, before = self.record, self.record.searched
        new: dict[str, Candidate] = {}
        for candidate in cycle:
            if candidate.network is not None and candidate.key not in record.placed:
                new.setdefault(candidate.key, candidate)
        for candidate in new.values():
            self._meet(candidate)
        jobs = {
            key: self.question.job(candidate.network)
            for key, candidate in new.items()
            if key not in record.outcomes
        }
        for key, ended in executor.run(jobs, on_wait=record.report):
            record.remember(new[key], ended.result, ended.reason)
            record.report()
        for candidate in cycle:
            record.place(candidate)
        record.write()
        record.report()
        if cycle[0].origin == "search":
            self.idle = self.idle + 1 if record.searched == before else 0
        self._learn(cycle)

    def _meet(self, candidate: Candidate) -> None:
        self.record.networks.setdefault(candidate.key, candidate.network)
        if candidate.key not in self.record.outcomes:
            score = self.question.scores.score(candidate.network)
            if score is not None:
                self.record.remember(candidate, score)

    # -- the algorithm -----------------------------------------------------------------------------

    @functools.cached_property
    def algorithm(self) -> Any:
        """Made when it is first asked: a run that had ended, or trains nothing, does not need
        it.
        """
        algorithm = self.question.algorithm()
        if (prior := self.question.prior()) is not None:
            algorithm.use_prior(prior)
        return algorithm

    def _sampler_errors(self) -> AbstractContextManager[None]:
        """What code of another package raises in a call of the algorithm is one line."""
        return foreign_errors(("sampler", self.algorithm), *self.question.foreign())

    def _learn(self, candidates: Sequence[Candidate]) -> None:
        """Tell the algorithm of trials: of those that it waits for, or of some that it did not
        propose.
        """
        evaluations = [
            self.record.evaluation(candidate)
            for candidate in candidates
            if candidate.genotype is not None
        ]
        if evaluations:
            with self._sampler_errors():
                (self.algorithm.tell if candidates[0].pending else self.algorithm.start_from)(
                    evaluations
                )

    # -- candidates --------------------------------------------------------------------------------

    def _drawn(self, genotypes: Sequence[Any], *, pending: bool) -> list[Candidate]:
        """The candidates of the next cycle, each at the largest width within the budgets."""
        self.record.cycles += 1
        return [
            Candidate(
                "search",
                "",
                self.question.fitter.latency_of(genotype)[0],
                genotype,
                self.record.cycles,
                pending,
            )
            for genotype in genotypes
        ]

    def _baselines(self) -> list[Candidate]:
        return [Candidate("baseline", label, network) for label, network in self.question.baselines]

    def _start_from_known(self) -> None:
        """Make trials of the known networks of the space within the budgets. The algorithm learns
        those that it would propose, which have the largest width, from the highest loss to the
        lowest."""
        candidates = [
            Candidate("bench", label, network, genotype)
            for genotype, network, label in self.question.known_networks()
            if network.hash not in self.record.networks
        ]  # else it is a baseline
        if not candidates:
            return
        for candidate in candidates:
            self._meet(candidate)
        losses = {
            candidate.key: self.record.place(candidate).loss or 0.0 for candidate in candidates
        }
        self.record.write()
        self.record.report()
        fitting = [
            candidate
            for candidate in candidates
            if self.question.fitter.latency_of(candidate.genotype)[0] == candidate.network
        ]
        self._learn(sorted(fitting, key=lambda candidate: -losses[candidate.key]))

    def _expected(self) -> list[Any]:
        """The genotypes that publications expect to be the best, the recommended one first: their
        trainings are the most likely to change the answer."""
        question, told = self.question, self.question.foretold
        return (
            []
            if told is None
            else [
                told.genotypes[place]
                for place in told.nearest(question.config.recall_floor, question.config.cycle_size)
            ]
        )

    def answer_by_evidence(self) -> None:
        """Trials of the networks that published trainings expect to be the best, and of the pure
        stacks.
        """
        told, record = self.question.foretold, self.record
        assert told is not None
        places = dict.fromkeys(
            [
                *told.spread(told.front(self.question.config.recall_floor), MAX_FRONT),
                *told.front(None)[-1:],
            ]
        )
        for candidate in (
            *self._baselines(),
            *(
                Candidate("search", "", told.networks[place], told.genotypes[place])
                for place in places
            ),
        ):
            if candidate.network is not None and candidate.key not in record.placed:
                record.networks[candidate.key] = candidate.network
                record.place(candidate)
        record.write()
