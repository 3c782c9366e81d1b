"""Searches whose workers share a database: SQLite, and a real PostgreSQL where its server is installed."""

import os
import signal
import threading
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import fault_driver
import pandas as pd
import pytest
import slow_space
from database_workers import both, on_sqlite, start_worker, states, working
from notes import Notes
from slow_space import NamedSpace

from flashnas.base.errors import RunError
from flashnas.cli.main import main
from flashnas.executors.queue import JobQueue
from flashnas.runs.folder import RunFolder
from flashnas.runs.run import RecordedRun
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search
from flashnas.testing import check_executor

pytestmark = pytest.mark.usefixtures("importable_helpers")


def search(out, url=None, *, resume=False, notes=None, **config):
    asked = {"table": None, "trials": 12, "cycle_size": 4, "workers": 1, "seed": 3, "sampler": "nsga2", **config}
    if url:
        asked |= {"executor": "storage", "storage": url}
    return run_search(SearchConfig(**asked), out, resume=resume, progress=notes or Notes(),
                      evaluator=slow_space.loss_and_latency, space=NamedSpace())


def trajectory(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=["train_seconds"])


@pytest.mark.slow
@on_sqlite
def test_workers_of_a_database_keep_the_contract(tmp_path, url):
    @contextmanager
    def workers():
        words = ["worker", "--storage", url, "--workers", "2", "--evaluator", "flashnas.testing.executor:solve"]
        process = fault_driver._started(tmp_path / "log", main, words)
        again = True

        def keep():  # a broken environment ends a worker; another one is started, as Slurm does
            nonlocal process
            while again:
                process.join(0.2)
                if process.exitcode is not None and again:
                    process = fault_driver._started(tmp_path / "log", main, words)

        thread = threading.Thread(target=keep)
        thread.start()
        try:
            yield
        finally:
            again = False
            thread.join()
            process.kill()
            process.join()

    check_executor("storage", {"stale_s": 5.0}, work={"storage": url}, beside=workers, ends_jobs=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The trajectory with one local worker."""
    out = tmp_path_factory.mktemp("alone") / "run"
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(slow_space.__file__).parent), before)))
    try:
        search(out)
    finally:
        os.environ["PYTHONPATH"] = before
    return trajectory(out)


def test_local_workers_give_the_same_trajectory(tmp_path, alone):
    search(tmp_path / "run", workers=4)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), alone)


@both
def test_workers_on_a_database_give_the_same_trajectory(tmp_path, alone, url):
    with working(url, 3):
        search(tmp_path / "run", url)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), alone)
    with closing(JobQueue(url, print)) as queue:
        assert queue.workers() == states(queue) == []


def params_ms(network):
    return network.params / 1e6


@pytest.mark.slow
@both
def test_a_search_with_rungs_has_the_trajectory_and_tokens_of_a_local_one(tmp_path, url):
    asked = {"table": None, "trials": 8, "cycle_size": 4, "workers": 1, "seed": 3, "sampler": "random",
             "rungs": (2, 4), "rung_chance": 0.3}
    found = []
    for name, more in (("here", {}), ("there", {"executor": "storage", "storage": url})):
        with working(url) if more else nullcontext():
            found.append(run_search(SearchConfig(**asked, **more), tmp_path / name, resume=False, progress=Notes(),
                                    evaluator=slow_space.by_fidelity, space=NamedSpace(), table=params_ms))
    here, there = (trajectory(tmp_path / name) for name in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)
    assert {"complete", "stopped"} <= set(here["state"])
    figures = [{name: value for name, value in one.items() if name not in ("run", "seconds", "front")} for one in found]
    assert figures[0] == figures[1]
    assert figures[0]["tokens_seeds"] > 0
    fronts = [[{**entry, "config": ""} for entry in one["front"]] for one in found]
    assert fronts[0] == fronts[1]


@pytest.mark.slow
@on_sqlite
def test_trainings_pause_and_go_on_through_a_database(tmp_path, url, small_corpus, quick_recipe, monkeypatch):
    """Without a disk that the machines share."""
    recipe = tmp_path / "curve.yaml"
    recipe.write_text(quick_recipe.read_text().replace("curve_points: 2", "curve_points: 4"))
    asked = {"space": "tiny", "recipe": str(recipe), "data": str(small_corpus), "trials": 4, "cycle_size": 4,
             "baselines": False, "bench": False, "workers": 1, "seed": 1, "rungs": ("50%", "75%"), "seeds": 1}
    found = []
    for name, more in (("here", {}), ("there", {"executor": "storage", "storage": url})):
        if more:
            monkeypatch.setattr(RunFolder, "checkpoints_of", lambda self, key: tmp_path / "elsewhere" / key)
        with working(url, 2) if more else nullcontext():
            found.append(run_search(SearchConfig(**asked, **more), tmp_path / name, resume=False, progress=Notes(),
                                    table=params_ms))
    here, there = (trajectory(tmp_path / name).drop(columns=["tokens_per_s"]) for name in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)
    again = found[1]["tokens_repeated"]
    assert again > 0
    assert found[1]["tokens"] == found[0]["tokens"] + again


@pytest.mark.slow
@on_sqlite
def test_two_processes_train_each_candidate_of_a_database(tmp_path, url, small_corpus, quick_recipe):
    recipe = tmp_path / "adamw.yaml"
    recipe.write_text(quick_recipe.read_text() + "optimizer: adamw\n")
    asked = {"space": "tiny", "recipe": str(recipe), "data": str(small_corpus), "trials": 1, "cycle_size": 1,
             "baselines": False, "bench": False, "workers": 1, "seed": 1, "processes_per_candidate": 2}
    run_search(SearchConfig(**asked), tmp_path / "here", resume=False, progress=Notes(), table=params_ms)
    worker = start_worker(url, "--processes-per-candidate", "2")
    try:
        run_search(SearchConfig(**asked, executor="storage", storage=url), tmp_path / "there", resume=False,
                   progress=Notes(), table=params_ms)
    finally:
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=60)
    assert "with 2 processes" in said
    here, there = (trajectory(tmp_path / name).drop(columns=["tokens_per_s"]) for name in ("here", "there"))
    assert (here["state"] == "complete").sum() == 1
    pd.testing.assert_frame_equal(here, there)
    assert RecordedRun.load(tmp_path / "here").entry("question", "processes_per_candidate") == 2


@pytest.mark.parametrize("wrong", ["sqlite:////nowhere/a.db", "postgresql://me:secret@127.0.0.1:1/x"])
def test_after_a_storage_that_cannot_be_opened_the_corrected_command_works(tmp_path, wrong):
    with pytest.raises(RunError, match="cannot be opened"):
        search(tmp_path / "run", storage=wrong, trials=2)
    search(tmp_path / "run", storage=f"sqlite:///{tmp_path}/a.db", trials=2)
    assert len(trajectory(tmp_path / "run")) == 2
