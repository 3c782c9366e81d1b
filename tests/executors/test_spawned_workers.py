"""The local executor with processes that start as they do for a user, each of which imports what it
needs.
"""

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
    jobs = {str(n): {"do": "device"} for n in range(8)}
    jobs |= {f"die{n}": {"do": "exit"} for n in range(2)}
    with LocalExecutor(
        Work(function=pool_jobs.act, timeout_s=60, devices=("GPU-a", "3"), gpu=True)
    ) as pool:
        assert pool.workers == 2
        found, again = ({key: ended.result for key, ended in pool.run(jobs)} for _ in range(2))
    owners = {}
    for one in [found[str(n)] for n in range(8)] + [again[str(n)] for n in range(8)]:
        assert one["torch"] is False
        owners.setdefault(one["pid"], set()).add(one["device"])
    assert all(len(devices) == 1 for devices in owners.values())
    assert set.union(*owners.values()) == {"GPU-a", "3"}
    shared = LocalExecutor(
        Work(function=pool_jobs.act, timeout_s=60, devices=("0",), workers=3, gpu=True)
    )
    assert shared.workers == 3
