"""A search in cycles: candidates are drawn together, and told together in the order drawn.

The trajectory does not depend on workers or interruptions. A continued run replays it: what its database
holds is not evaluated again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flashnas.executors.base import Flow
from flashnas.study.loop import State
from flashnas.study.record import Candidate, Record


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
        """Each is drawn when the one before has ended."""
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
        """The candidates of a new cycle."""
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
