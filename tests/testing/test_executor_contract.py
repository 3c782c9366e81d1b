"""The contract of executors: a broken one is refused with one line that names the rule."""

import dataclasses

import executor_contract as contract
import pytest
from executor_contract import check_executor

from flashnas.executors.base import Ended
from flashnas.executors.local import InProcess, LocalExecutor


class NoWorkers(InProcess):
    workers = 0


class WrongKeys(InProcess):
    def submit(self, key, job):
        super().submit(key, job)
        self._queue[-1] = (f"job {len(self._queue) % 3}", job)


class WrongResults(InProcess):
    def finished(self, wait_s):
        return [
            (key, dataclasses.replace(ended, result={"loss": 1.0}))
            for key, ended in super().finished(wait_s)
        ]


class Gossips(LocalExecutor):
    def finished(self, wait_s):
        return [
            (key, dataclasses.replace(ended, reason=ended.reason and f"sorry\n{ended.reason}"))
            for key, ended in super().finished(wait_s)
        ]


class GivesUp(LocalExecutor):
    """What died is a failure at once."""

    def finished(self, wait_s):
        return [
            (key, ended if ended.kind == "done" else Ended(kind="failed", reason=ended.reason))
            for key, ended in super().finished(wait_s)
        ]


class NeverBroken(LocalExecutor):
    def finished(self, wait_s):
        return [
            (key, ended if ended.kind != "broken" else Ended(kind="failed", reason=ended.reason))
            for key, ended in super().finished(wait_s)
        ]


class KeepsJobs(LocalExecutor):
    """Only `close` forgets what was submitted."""

    closing = False

    def drop(self):
        if self.closing:
            super().drop()

    def close(self):
        self.closing = True
        super().close()


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        (NoWorkers, "`workers` must be at least 1"),
        (WrongKeys, "a job must come back once, by its key, and not after `drop`"),
        (WrongResults, "results must be those of the jobs"),
    ],
)
def test_a_broken_executor_is_refused(executor, words):
    with pytest.raises(AssertionError) as caught:
        check_executor(executor)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "words"),
    [
        (Gossips, "a reason must be one line"),
        (GivesUp, "a job that has to die must be tried twice; got 1"),
        (NeverBroken, "a broken environment must raise WorkerError"),
        # the one or the other rule, as a job that was dropped ends in time or not
        (
            KeepsJobs,
            (
                "a job must come back once, by its key, and not after `drop`",
                "what is dropped must not come back, and its key may be used again",
            ),
        ),
    ],
)
def test_a_broken_executor_with_processes_is_refused(executor, words, monkeypatch):
    monkeypatch.setattr(contract, "TIMEOUT_S", 2.0)
    with pytest.raises(AssertionError) as caught:
        check_executor(executor)
    assert any(text in str(caught.value) for text in ([words] if isinstance(words, str) else words))
