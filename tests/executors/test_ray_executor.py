"""Candidates on a real Ray of two CPUs."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pool_jobs
import pytest
import slow_space
from executor_contract import check_executor
from fault_driver import alive, wait_for
from foreign_space import Gpt2Space, latency_ms
from notes import Notes

from flashnas.base.errors import ConfigError
from flashnas.executors import Work
from flashnas.executors.ray import RayExecutor, RayOptions
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")]
HELPERS = str(Path(pool_jobs.__file__).parent)


@pytest.fixture(scope="module", autouse=True)
def importable_in_workers():
    before = os.environ.get("PYTHONPATH", "")
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HELPERS, root, before)))
    yield
    os.environ["PYTHONPATH"] = before


@pytest.fixture
def executor(importable_in_workers):
    with RayExecutor(Work(function=pool_jobs.act, timeout_s=8, workers=2)) as executor:
        yield executor


def outcomes(executor, jobs, on_wait=None):
    return {key: ended.result if ended.result is not None else ended.reason
            for key, ended in executor.run(jobs, on_wait)}


def test_ray_keeps_the_contract(importable_in_workers):
    before = signal.getsignal(signal.SIGTERM)
    check_executor("ray")
    assert signal.getsignal(signal.SIGTERM) is before


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_lost_task_is_tried_once_more(executor, tmp_path):
    for times, outcome in ((1, {"value": 2}), (2, "machine or worker lost (WorkerCrashedError)")):
        path, killed = tmp_path / f"pids {times}", []

        def kill():
            pids = [int(pid) for pid in path.read_text().split()] if path.exists() else []  # noqa: B023
            for pid in pids[len(killed):times]:  # noqa: B023
                os.kill(parent_of(pid), signal.SIGKILL)  # Ray's process, above the one that trains
                killed.append(pid)  # noqa: B023

        found = outcomes(executor, {"a": {"do": "touch slowly", "path": str(path)}}, kill)
        wait_for(lambda: not any(alive(pid) for pid in killed))  # noqa: B023
        assert len(killed) == times
        assert found["a"] == outcome


def test_ray_gives_the_same_trajectory_for_an_evaluator_of_this_script(tmp_path):
    def mine(network):
        return slow_space.loss_and_latency(network)["loss"]

    found = []
    for name, more in (("local", {"workers": 1}), ("ray", {"executor": "ray", "workers": 2})):
        config = SearchConfig(**{"table": None, "trials": 16, "cycle_size": 4, "seed": 3, "sampler": "random", **more})
        summary = run_search(config, tmp_path / name, resume=False, progress=Notes(), evaluator=mine,
                             space=Gpt2Space(), table=latency_ms)
        found.append((pd.read_parquet(tmp_path / name / "trials.parquet").drop(columns="train_seconds"),
                      summary["trials"]))
    pd.testing.assert_frame_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_candidate_has_the_cpus_and_gpus_of_all_its_processes():
    import ray

    ray.shutdown()  # on a cluster, its places count

    def sizes(options=None, **work):
        executor = RayExecutor(Work(function=pool_jobs.act, timeout_s=9, **work), RayOptions(**(options or {})))
        return executor.cpus, executor.gpus, executor.workers

    assert sizes({"cpus": 2}, processes=4, gpu=True, workers=3) == (8, 4, 3)
    assert sizes(processes=2, gpu=True, devices=("0", "1", "2", "3")) == (2, 2, 2)
    assert sizes({"gpus": 0.5}, gpu=True, workers=3) == (1, 0.5, 3)
    with pytest.raises(ConfigError, match=r"gpus below 1 and processes_per_candidate exclude .*got gpus 0\.5"):
        sizes({"gpus": 0.5}, processes=2, gpu=True)
    with pytest.raises(ConfigError, match="leave it out where candidates train on GPUs"):
        sizes({"worker_memory_gb": 4}, gpu=True)
