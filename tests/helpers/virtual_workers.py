"""An executor of many workers in this process: each job takes time on a clock of its own, and none
in reality.
"""

from __future__ import annotations

import heapq

from flashnas.executors import Executor
from flashnas.executors.attempt import attempt
from flashnas.executors.job import run_job


class VirtualWorkers(Executor):
    """took(job) -> seconds of it."""

    def __init__(self, workers, took):
        self.count, self.took = workers, took
        self.clock_s, self.most = 0.0, 0
        self._free, self._ends, self._number = [0.0] * workers, [], 0

    @property
    def workers(self):
        return self.count

    def submit(self, key, job):
        end = max(self.clock_s, heapq.heappop(self._free)) + self.took(job)
        heapq.heappush(self._free, end)
        self._number += 1
        heapq.heappush(self._ends, (end, self._number, key, job))
        self.most = max(self.most, len(self._ends))

    def finished(self, wait_s):
        end, _, key, job = heapq.heappop(self._ends)
        self.clock_s = end
        return [(key, attempt(run_job, job))]

    def drop(self):
        self._ends.clear()
        self._free = [self.clock_s] * self.count
