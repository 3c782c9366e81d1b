"""Shared fixtures: a cache of its own, a small corpus, a quick recipe, a CPU table measured for the
tiny space, and run folders."""

import gc
import importlib
import multiprocessing
import os
import random
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import forks
import pytest
from fresh import python_path
from full_disk import disk  # noqa: F401  (a fixture)
from problems import with_few_candidates
from run_builder import make_trials, write_run
from short_profiles import with_short_profiles

from flashnas.run_folder.recorded_run import RecordedRun

gc.disable()  # until all tests are collected: what they import stays
PAGE = importlib.import_module("flashnas.reporting.page")  # `flashnas.report` is a function
WRITE_REPORT = PAGE.write_report


def pytest_configure(config):
    if getattr(config.option, "numprocesses", None):
        forks.ready()  # once for all workers


def pytest_collection_finish():
    gc.freeze()
    gc.set_threshold(10_000)  # what a test makes is little beside what it has to look through
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()


SENTENCE = "the state of delta rule attention window token fast small model reads"
RECIPE = """\
width_factor: 1
vocab: 300
sequence_tokens: 32
batch_sequences: 4
tokens: 512
validation_tokens: 512
curve_points: 2
curve_tokens: 128
muon_lr: 0.01
adamw_lr: 0.003
dtype: float32
"""


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory):
    """A cache of their own, which workers inherit; and searches fork their workers, which then need not import torch:
    see `spawned_workers`."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        # torch keeps the stack of each `manual_seed` for a GPU that is not there: milliseconds each
        for module in (torch.cuda, torch.xpu, torch.mtia):
            patch.setattr(module, "traceback", SimpleNamespace(format_stack=list), raising=False)
        # what was written outlives a killed process without it
        patch.setattr(os, "fsync", lambda handle: None)
        forks.fork_workers(patch)
        yield


@pytest.fixture(autouse=True)
def without_fla(request, monkeypatch):
    """Its import takes seconds: only the slow tests and those on a GPU have it."""
    if not {"slow", "gpu"} & {mark.name for mark in request.node.iter_markers()}:
        monkeypatch.setitem(sys.modules, "fla", None)


QUICK = {"api", "cli", "docs", "executors", "exporting", "network", "observations", "study"}


@pytest.fixture(scope="module", autouse=True)
def quick_searches(request):
    """In these rooms a search by published trainings looks at few candidates, and no command writes
    report.html and pictures, which take longer than a search of few networks. A test that reads
    them uses `pages`; tests/reporting holds what is in them.
    """

    def named(source):
        path = (source if isinstance(source, RecordedRun) else RecordedRun.load(source)).path
        return path / "report.html", path / "pareto.png"

    with pytest.MonkeyPatch.context() as patch:
        if request.path.relative_to(Path(__file__).parent).parts[0] in QUICK:
            patch.setattr(PAGE, "write_report", named)
            with_few_candidates(patch)
        yield


@pytest.fixture
def pages(monkeypatch):
    """Searches write their report, as they do for a user."""
    monkeypatch.setattr(PAGE, "write_report", WRITE_REPORT)


@pytest.fixture(scope="module")
def spawned_workers():
    """Searches start their worker processes as they do for a user."""
    from flashnas.executors import local
    from flashnas.testing import self_test

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "multiprocessing", multiprocessing)
        patch.setattr(self_test, "multiprocessing", multiprocessing)
        yield


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory):
    """A folder of 40 text files, about 80 kB of made-up sentences."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = SENTENCE.split()
    for number in range(40):
        sentences = [" ".join(rng.choices(words, k=9)) + "." for _ in range(40)]
        (folder / f"{number:02d}.txt").write_text(f"Text {number}. " + "\n".join(sentences))
    return folder


@pytest.fixture(scope="session")
def structured():
    """A token is followed by one of two others: unigram entropy ln 64, conditional entropy ln 2."""
    import numpy as np

    from flashnas.data.dataset import Dataset

    tokens = [0]
    for bit in np.random.default_rng(0).integers(2, size=20_000):
        tokens.append((5 * tokens[-1] + 1 + 17 * int(bit)) % 64)
    train, validation = np.split(np.array(tokens, np.uint16), [len(tokens) * 9 // 10])
    return Dataset(
        folder=None,
        source="made up",
        vocab=300,
        train=train,
        validation=validation,
        validation_bytes=2 * len(validation),
        notes=(),
    )


@pytest.fixture(scope="session")
def quick_recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def profiled_tiny_table(tmp_path_factory):
    """The tiny space profiled on this CPU for the chat workload, with little effort."""
    from flashnas.latency.workload import load_workload
    from flashnas.profiling.torch_target import Torch
    from flashnas.space import load_space

    folder = tmp_path_factory.mktemp("table") / "tiny_cpu"
    with pytest.MonkeyPatch.context() as patch:
        with_short_profiles(patch)
        profile = importlib.import_module("flashnas.profiling.profile").profile
        profile(load_space("tiny"), [load_workload("chat")], folder, Torch(seconds=0.02))
    return folder


@pytest.fixture
def copied_tiny_table(profiled_tiny_table, tmp_path):
    """A copy of it, to be written to."""
    import shutil

    return shutil.copytree(profiled_tiny_table, tmp_path / profiled_tiny_table.name)


@pytest.fixture
def build_run(tmp_path):
    """Writes a run folder of `count` trials; `reason`: as of `make_trials`."""

    def build(
        count=40,
        *,
        reason="",
        trials=None,
        **options,
    ):
        return write_run(
            tmp_path / "demo", make_trials(count, reason) if trials is None else trials, **options
        )

    return build


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "demo", make_trials())


@pytest.fixture(scope="session")
def run(run_folder):
    return RecordedRun.load(run_folder)


@pytest.fixture
def refused(capsys):
    """The error line of a command that the user got wrong, which prints nothing else."""
    from flashnas.cli.main import main

    def line(words):
        capsys.readouterr()
        assert main(shlex.split(words) if isinstance(words, str) else words) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        return err

    return line


@pytest.fixture
def signals_heard():
    """Processes that a test starts hear SIGINT and SIGHUP, which a shell lets background jobs and
    nohup ignore.
    """
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def importable_helpers(monkeypatch):
    """Processes that a test starts can import the helpers."""
    monkeypatch.setenv("PYTHONPATH", python_path(Path(forks.__file__).parent))
