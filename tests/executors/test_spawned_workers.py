"""The local executor with processes that start as they do for a user, each of which imports what it
needs.
"""

from dataclasses import replace

import pool_jobs
import pytest
from executor_contract import check_executor

from flashnas.executors import Work
from flashnas.executors.local import LocalExecutor

pytestmark = pytest.mark.usefixtures("importable_helpers", "spawned_workers")


@pytest.mark.slow
def test_the_local_executor_keeps_the_contract():
    check_executor("local")


def test_each_worker_owns_a_device_before_torch_loads():
    work = Work(function=pool_jobs.act, timeout_s=60, devices=("GPU-a", "3"), gpu=True)
    jobs = {n: {"do": "exit" if n < 2 else "device"} for n in range(10)}
    with LocalExecutor(work) as pool:
        assert pool.workers == 2
        found = [ended.result for _ in range(2) for _, ended in pool.run(jobs) if ended.result]
    owners = {(one["pid"], one["device"]) for one in found}
    assert len({pid for pid, _ in owners}) == len(owners)
    assert {device for _, device in owners} == {"GPU-a", "3"}
    assert not any(one["torch"] for one in found)
    assert LocalExecutor(replace(work, devices=("0",), workers=3)).workers == 3
