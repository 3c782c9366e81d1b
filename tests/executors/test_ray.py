"""Jobs and searches on a real Ray cluster of this machine, by its address: two nodes, one that
vanishes, kill -9. All share one cluster: run them in one process. tests/study/test_interrupt.py has
a search that starts a Ray of its own."""

import os
import shutil
import signal
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pool_jobs
import pytest
import slow_space
from executor_contract import check_executor
from fault_driver import alive, none_left, run, start_driver, wait_for
from foreign_space import Gpt2Space, latency_ms
from fresh import python_path
from notes import Notes, trajectory

from flashnas.base.errors import ConfigError
from flashnas.data.dataset import prepare_dataset
from flashnas.executors import Work
from flashnas.executors.job import Job, run_job
from flashnas.executors.ray import RayExecutor, RayOptions
from flashnas.space import load_space
from flashnas.study.config import SearchConfig
from flashnas.study.run_search import run_search
from flashnas.training.recipe import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed"),
]
TRIALS = 12
MODULES = python_path(Path(pool_jobs.__file__).parent, Path(__file__).parents[2])


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


def started_cluster(tries=3):
    """Ray gives up after 30 s, and a busy machine needs longer at times."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": False}
    try:
        return Cluster(initialize_head=True, head_node_args=head)
    except Exception:
        if tries == 1:
            raise
        return started_cluster(tries - 1)


@pytest.fixture(scope="session")
def cluster(place):
    """Its first node has two CPUs, says that it has two GPUs, and is as slow as its environment
    says.
    """
    import ray

    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", MODULES)
        patch.setenv("SLOW_S", "0.2")
        patch.setenv("CALLS", str(place / "calls"))
        patch.setenv("FLASHNAS_CACHE", str(place / "cache"))
        cluster = started_cluster()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def connected(cluster, monkeypatch):
    """Executors of this process keep one connection: Ray starts processes for each, which import for
    seconds.
    """
    import ray

    connect = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: ray.is_initialized() or connect(**options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@contextmanager
def second_node(cluster, place, **environment):
    paths = {name: str(place / value) for name, value in environment.items()}
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": MODULES, "SLOW_S": "0.2", **paths})
    try:
        yield node
    finally:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def calls(place):
    """The file of the calls on the first node, empty."""
    (place / "calls").unlink(missing_ok=True)
    return place / "calls"


@pytest.fixture(scope="session")
def whole(place):
    """The trajectory with one local worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", MODULES)
        run(place / "whole", 1, trials=TRIALS)
    return trajectory(place / "whole")


def searched(driver, log):
    driver.join(240)
    assert driver.exitcode == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_node_that_vanishes_during_a_search_changes_nothing(
    cluster, place, whole, calls, tmp_path
):
    log, there = tmp_path / "log", place / "calls there"
    with second_node(cluster, place, CALLS=there.name) as node:
        driver = start_driver(log, tmp_path / "run", 3, cluster.address, TRIALS)
        wait_for(
            lambda: not driver.is_alive() or (slow_space.calls(calls) and slow_space.calls(there))
        )
        before = len(slow_space.calls(there))
        wait_for(lambda: not driver.is_alive() or len(slow_space.calls(there)) > before)
        assert driver.is_alive(), log.read_text()
        cluster.remove_node(node, allow_graceful=False)
    assert none_left(there)
    searched(driver, log)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), whole)


def test_a_search_that_is_killed_goes_on_with_the_same_trajectory(cluster, whole, calls, tmp_path):
    log = tmp_path / "log"
    for more in (2, 3):
        before = len(slow_space.calls(calls))
        driver = start_driver(log, tmp_path / "run", 2, cluster.address, TRIALS)
        wait_for(lambda: not driver.is_alive() or len(slow_space.calls(calls)) >= before + more)  # noqa: B023
        assert driver.is_alive(), log.read_text()
        driver.kill()
        driver.join()
        assert none_left(calls)
    searched(start_driver(log, tmp_path / "run", 2, cluster.address, TRIALS), log)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), whole)


def test_ray_keeps_the_contract(cluster):
    before = signal.getsignal(signal.SIGTERM)
    check_executor("ray", {"address": cluster.address})
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_candidate_has_the_cpus_and_gpus_that_are_asked_for():
    import ray

    ray.shutdown()  # on a cluster, its places count

    def sizes(options=None, **work):
        executor = RayExecutor(
            Work(function=pool_jobs.act, timeout_s=9, **work), RayOptions(**(options or {}))
        )
        return executor.gpus, executor.workers

    assert sizes({"cpus": 2}, gpu=True, workers=3) == (1, 3)
    assert sizes(gpu=True, devices=("0", "1", "2", "3")) == (1, 4)
    assert sizes({"gpus": 0.5}, gpu=True, workers=3) == (0.5, 3)
    with pytest.raises(ConfigError, match="leave it out where candidates train on GPUs"):
        sizes({"worker_memory_gb": 4}, gpu=True)


# -- executors of this process, which stay connected ---------------------------------------------------


def test_the_text_travels_once_to_each_node(
    cluster, connected, place, tmp_path, small_corpus, quick_recipe
):
    recipe = Recipe.load(quick_recipe)
    dataset = prepare_dataset(str(small_corpus), recipe, cache=tmp_path / "driver")
    space, rng = load_space("tiny"), np.random.default_rng(0)
    jobs = {
        str(n): Job(
            architecture=space.architectures(space.sample(rng))[0],
            dataset=str(dataset.folder),
            recipe=recipe.to_dict(),
            seed=n,
        )
        for n in range(6)
    }
    texts = [place / name / "datasets" / dataset.digest for name in ("cache", "cache there")]
    work = Work(function=run_job, timeout_s=300, dataset=str(dataset.folder))

    def losses(*keys):
        return [
            (key, ended.result["loss"])
            for key, ended in executor.run({key: jobs[key] for key in keys})
            if ended.result
        ]

    with (
        second_node(cluster, place, FLASHNAS_CACHE="cache there"),
        RayExecutor(work, RayOptions(address=cluster.address)) as executor,
    ):
        executor._start()
        shutil.move(dataset.folder, tmp_path / "gone")
        assert len(losses(*"012")) == 3
        first = [[path.stat().st_ino for path in (text, *sorted(text.iterdir()))] for text in texts]
        assert len(losses(*"345")) == 3
        assert [
            [path.stat().st_ino for path in (text, *sorted(text.iterdir()))] for text in texts
        ] == first


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("times", "outcome"), [(1, {"value": 2}), (2, "machine or worker lost (WorkerCrashedError)")]
)
def test_a_lost_task_is_tried_once_more(cluster, connected, tmp_path, times, outcome):
    path, killed = tmp_path / "pids", []

    def kill():
        for pid in pool_jobs.tries(path)[len(killed) : times]:
            os.kill(parent_of(pid), signal.SIGKILL)  # Ray's process, above the one that trains
            killed.append(pid)

    job = {"do": "count slowly", "tries": str(path)}
    with RayExecutor(
        Work(function=pool_jobs.act, timeout_s=8, workers=2), RayOptions(address=cluster.address)
    ) as executor:
        ((_, ended),) = executor.run({"a": job}, kill)
    wait_for(lambda: not any(alive(pid) for pid in killed))
    assert len(killed) == times
    assert (ended.reason if ended.result is None else ended.result) == outcome


def test_ray_gives_the_same_trajectory_for_an_evaluator_of_this_script(
    cluster, connected, tmp_path
):
    def mine(network):
        return slow_space.loss_and_latency(network)["loss"]

    found = []
    for name, more in (
        ("local", {"workers": 1}),
        (
            "ray",
            {"executor": "ray", "workers": 2, "executor_options": {"address": cluster.address}},
        ),
    ):
        config = SearchConfig(
            **{"table": None, "trials": 8, "cycle_size": 4, "seed": 3, "sampler": "random", **more}
        )
        summary = run_search(
            config,
            tmp_path / name,
            resume=False,
            progress=Notes(),
            evaluator=mine,
            space=Gpt2Space(),
            table=latency_ms,
        ).summary
        found.append((trajectory(tmp_path / name), summary["trials"]))
    pd.testing.assert_frame_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
