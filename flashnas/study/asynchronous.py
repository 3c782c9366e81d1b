"""A search without cycles: a free worker trains on a paused candidate, or the sampler is asked for the next
one.

A candidate is recorded before its training: a continued search gives the algorithm what has ended, in the
order of the database, and trains what has not. Rungs are those of asynchronous successive halving (ASHA,
arXiv 1810.05934), with the chance of entering the front in place of a fixed share; it is computed again
whenever something has ended. A paused candidate with too small a chance is told with its expected loss.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.base.errors import RunError
from flashnas.executors.base import Ended, Flow
from flashnas.runs.folder import Proposal
from flashnas.runs.layout import ASKED
from flashnas.search.rungs import most_likely
from flashnas.study.loop import State
from flashnas.study.record import Candidate, Record

MAX_PAUSED = 64    # candidates at a rung whose chance is computed again; those with less of it stop for good


class Asynchronous(State):
    """A candidate becomes a trial when its outcome, or that it stops, is known."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        # networks without an outcome, or with a decision to come
        self._open: dict[str, Candidate] = {}
        self._duplicates: dict[str, list[Candidate]] = {}   # other candidates with the network of an open one
        # paused candidates that are to train on, the best first
        self._promoted: deque[tuple[int, str]] = deque()
        # at each rung since somebody trained on from there
        self._stops = dict.fromkeys(self.rungs, 0)
        self._begun, self._changed = False, True            # since chances were computed
        self._number = self._unwritten = 0

    def next_job(self, flow: Flow) -> tuple[str, Any] | None:
        if not self._begun:
            self._begin()
        if self._changed:
            self._decide()
        while room := flow.room:
            if self._promoted:
                return self._train_on(*self._promoted.popleft())
            if self.queue:
                return self.start(*self.queue.popleft())
            if not (count := min(room, self._left())):
                break
            self._propose(self.ask(count), pending=True)
        return None

    def end(self, key: str, ended: Ended) -> None:
        self._changed = True
        super().end(key, ended)

    # -- the start -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Queue the baselines and what was proposed and has not ended; take over what is known."""
        recorded = self.folder.proposals()
        if recorded:  # the draws of another seed: the old ones would propose the same again
            fresh = np.random.SeedSequence([self.question.config.seed, len(recorded)]).generate_state(1)
            self.algorithm = self._algorithm(int(fresh[0]))
        for candidate in self.baselines():
            self._admit(candidate)
        self.start_from_bench()
        if recorded:
            self._restore(recorded)
        else:
            first = list(dict.fromkeys([*self.expected(), *self.resized()]))
            self._propose(first[:self.question.config.trials], pending=False)
        self._begun = True

    def _restore(self, recorded: Sequence[Proposal]) -> None:
        """Take in what earlier parts of the run proposed, first what has ended."""
        ends = {outcome.hash: place for place, outcome in enumerate(self.record.outcomes.values())
                if outcome.seed is None}
        candidates = [self.candidate(self.question.space.decode(proposal.genotype), proposal.number,
                                     pending=False) for proposal in recorded]
        networks = {candidate.key for candidate in candidates if candidate.network is not None}
        if unknown := set(ends) - networks - set(self.record.networks):
            raise RunError(f"{self.folder.path / ASKED}: lacks {len(unknown)} of the {len(ends)} networks"
                           f" that {self.folder.database.journal} holds; restore it, or choose another --out")
        self._number = max(candidate.number for candidate in candidates)
        with self.sampler_errors():
            self.algorithm.exclude([candidate.genotype for candidate in candidates])
        for candidate in sorted(candidates, key=lambda candidate: len(ends) if candidate.network is None else
                                ends.get(candidate.key, len(ends))):
            self._admit(candidate)
        self._decide()
        # what stopped in an earlier part of the run is not counted again
        self._stops = dict.fromkeys(self._stops, 0)

    # -- candidates ------------------------------------------------------------------------------------------

    def _left(self) -> int:
        drawn = sum(candidate.origin == "search" and candidate.place is None
                    for candidate in self._open.values())
        return 0 if self.exhausted else max(0, self.question.config.trials - self.record.evaluated - drawn)

    def _propose(self, genotypes: Sequence[Any], *, pending: bool) -> None:
        if not genotypes:
            return
        candidates = [self.candidate(genotype, number, pending=pending)
                      for number, genotype in enumerate(genotypes, start=self._number + 1)]
        self._number += len(candidates)
        self.folder.record_proposals([Proposal(number=candidate.number, genotype=self.question.space.encode(
            candidate.genotype)) for candidate in candidates])
        for candidate in candidates:
            self.idle = 0 if self._admit(candidate) else self.idle + 1

    def _admit(self, candidate: Candidate) -> bool:
        """Queue a candidate, or make it a trial if its outcome is known. True if its network is new."""
        if candidate.network is not None and candidate.key in self._open:
            self._duplicates.setdefault(candidate.key, []).append(candidate)
            return False
        if candidate.network is None or candidate.key in self.record.placed:
            self._place(candidate)
            return False
        self._open[candidate.key] = candidate
        self.meet(candidate)
        pauses = candidate.origin == "search" and candidate.key not in self.record.outcomes
        rungs = self.rungs if pauses else ()
        reached = [rung for rung in rungs if self.reached(candidate.key, rung)]
        self.send(candidate, (reached[-1] if reached else rungs[0]) if rungs else None)
        return True

    def finish(self, candidate: Candidate) -> None:
        self._place(candidate)
        if self.rungs:
            self.folder.remove_checkpoints({candidate.key})
        self._close(candidate.key)

    def _close(self, key: str) -> None:
        del self._open[key]
        for duplicate in self._duplicates.pop(key, ()):
            self._place(duplicate)

    def _place(self, candidate: Candidate) -> None:
        """Make it a trial, or renew its trial, which said that it had stopped; tell the algorithm."""
        again = candidate.place is not None
        self.record.place(candidate)
        if again:
            with self.sampler_errors():
                self.algorithm.correct(self.record.evaluation(candidate))
            return
        self.learn([candidate], in_order=False)
        self._unwritten += 1
        if self._unwritten >= self.question.config.cycle_size:  # as often as in cycles
            self._unwritten = 0
            self.record.write()

    # -- rungs -----------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Compute all chances again: who trains on as soon as there is a worker, and who stops."""
        self._changed = False
        self._promoted.clear()
        for rung in reversed(self.rungs):
            if not (paused := list(self.paused[rung])):
                continue
            # besides the paused ones, a decision sees those in training that came past this rung
            pause = self.judge(rung, [*paused, *(key for key in self.running if self.reached(key, rung))],
                               at_least_one=False)
            places = {key: place for place, key in enumerate(paused)}
            promoted = [key for key in paused if pause.promoted[places[key]]]
            for key in paused:
                if key not in promoted and key not in self.record.stopped:
                    self._stops[rung] += 1
                    self.stop(key, rung, pause, places[key])
                    self._place(self._open[key])
                    self._close(key)
            stops = self._stops[rung] if self._begun else 0
            if not promoted and stops >= self.question.config.cycle_size:  # forecasts need finished trainings
                points = [self.record.point_of(key, pause.losses[places[key]]) for key in paused]
                promoted = [paused[most_likely(pause.chances[:len(paused)], points)]]
            ordered = sorted(paused, key=lambda key: -pause.chances[places[key]])
            self._promoted.extend((rung, key) for key in ordered if key in promoted)
            for key in [key for key in ordered if key not in promoted][MAX_PAUSED:]:
                del self.paused[rung][key]
                self.folder.remove_checkpoints({key})

    def _train_on(self, rung: int, key: str) -> tuple[str, Any]:
        self._open[key] = candidate = self.paused[rung].pop(key)
        self._stops[rung] = 0
        self.record.stopped.pop(key, None)
        return self.start(candidate, self.after(rung))
