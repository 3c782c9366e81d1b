"""One candidate by two processes: what they say is the result, and no way to fail leaves a process
behind.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import hanging_ranks
import pytest
from offenders import every

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateDiedError, CandidateMemoryError, DeviceError
from flashnas.data.dataset import prepare_dataset
from flashnas.executors.base import Work
from flashnas.executors.local import LocalExecutor
from flashnas.training import candidate
from flashnas.training.candidate import _error_of, _reason, run_candidate
from flashnas.training.recipe import Recipe


@pytest.fixture(scope="module")
def job(small_corpus, quick_recipe):
    recipe = Recipe.load(quick_recipe)
    network = Architecture.parse("64: d(head_dim=16) f a(head_dim=16) f m2(head_dim=16,state=16) f")
    return {
        "architecture": network.to_dict(),
        "dataset": str(prepare_dataset(str(small_corpus), recipe, None).folder),
        "recipe": recipe.to_dict(),
        "seed": 3,
    }


@pytest.fixture
def alone(monkeypatch):
    """What `candidate.main` does as the only process that torchrun started."""
    monkeypatch.setattr(candidate, "die_with_parent", lambda: None)
    monkeypatch.setattr(candidate, "_started_by_worker", lambda: True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")


def timeless(score):
    return {name: value for name, value in score.items() if name not in ("seconds", "tokens_per_s")}


def test_the_score_of_the_processes_is_that_of_one(job, alone, monkeypatch):
    """Of one that torchrun would start; two of them: tests/training/test_distributed.py."""
    commands = []

    def torchrun(command, stdout, env, **options):
        commands.append(command)
        assert env[candidate.WORKER] == str(os.getpid())
        return subprocess.CompletedProcess(command, candidate.main(Path(command[-1])))

    monkeypatch.setattr(subprocess, "run", torchrun)
    assert timeless(run_candidate({**job, "processes": 2})) == timeless(run_candidate(job))
    assert commands[0][1:-1] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--module",
        "flashnas.training.candidate",
    ]
    assert not Path(commands[0][-1]).exists()


def test_what_one_process_raises_is_the_reason(job, alone, monkeypatch):
    def lacking(*_):
        raise CandidateMemoryError("out of memory while training")

    monkeypatch.setattr(candidate, "train_candidate", lacking)
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(
            command, candidate.main(Path(command[-1]))
        ),
    )
    with pytest.raises(CandidateMemoryError, match=r"^out of memory while training$"):
        run_candidate({**job, "processes": 2})


FAILURE = """
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : {} (pid: 4711)
Root Cause (first observed failure):
[0]:
  exitcode  : -15 (pid: 4710)
"""
WITHOUT_TORCHRUN = "Traceback (most recent call last):\n  File\nImportError: No module named 'x'\n"


@every(
    case=[
        (
            FAILURE.format(-9),  # torchrun ends the others by SIGTERM
            CandidateMemoryError,
            "a process of the training died (SIGKILL, out of memory?)",
        ),
        (FAILURE.format(-11), CandidateDiedError, "a process of the training died (SIGSEGV)"),
        (FAILURE.format(-15), CandidateDiedError, "a process of the training died (SIGTERM)"),
        (
            FAILURE.format(1),
            DeviceError,
            "torchrun could not train:   exitcode  : -15 (pid: 4710)",
        ),
        (
            WITHOUT_TORCHRUN,
            DeviceError,
            "torchrun could not train: ImportError: No module named 'x'",
        ),
    ]
)
def test_what_torchrun_prints_is_the_reason_where_no_process_gave_one(tmp_path_factory, case):
    output, error, text = case
    (folder := tmp_path_factory.mktemp("ranks")).joinpath("output").write_text(output)
    found = _reason(folder, 1)
    assert (type(found), str(found)) == (error, text)


@pytest.mark.slow  # starts two processes
def test_hanging_processes_end_with_their_worker(job, monkeypatch, tmp_path, importable_helpers):
    monkeypatch.setenv("RANKS_PIDS", str(tmp_path))
    executor = LocalExecutor(
        Work(function=hanging_ranks.run, workers=1, timeout_s=600, processes=2)
    )
    with executor:
        executor.submit("a", {**job, "processes": 2})
        while len(hanging := [path for path in tmp_path.iterdir() if path.read_text()]) < 2:
            assert not executor.finished(0.5)
        pids = {int(path.name) for path in hanging} | {int(path.read_text()) for path in hanging}
        assert len(pids) == 3  # both, and torchrun
        os.kill(executor._slots[0]._process.pid, signal.SIGKILL)
        while not (ended := executor.finished(1.0)):
            pass
        assert ended[0][1].kind == "killed"
    until = time.monotonic() + 10
    while pids & {pid for pid, _ in processes()} and time.monotonic() < until:
        time.sleep(0.1)
    assert not pids & {pid for pid, _ in processes()}


def processes():
    """(number, words) of all that run; a zombie has no words."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words:
            yield int(place.parent.name), words


@every(
    case=[
        ("flashnas.base.errors", "CorpusError", "/a: no", "CorpusError", "/a: no"),
        ("builtins", "ModuleNotFoundError", "No", "ModuleNotFoundError", "No"),
        ("triton.compiler", "CompilationError", "at", "DeviceError", "CompilationError: at"),
        ("builtins", "UnicodeDecodeError", "x", "DeviceError", "UnicodeDecodeError: x"),
    ]
)
def test_errors_of_another_process_keep_their_meaning(case):
    module, name, text, kind, message = case
    found = _error_of({"class": name, "module": module, "text": text})
    assert (type(found).__name__, str(found)) == (kind, message)


def test_of_several_reports_the_first_that_is_not_of_a_lost_connection_is_the_reason(tmp_path):
    for rank, text in enumerate(
        ("Connection closed by peer", "training loss became nan", "out of disk")
    ):
        (tmp_path / f"failed-{rank}").write_text(
            json.dumps(
                {
                    "class": "CandidateError",
                    "module": "flashnas.base.errors",
                    "text": text,
                    "lost": rank == 0,
                }
            )
        )
    assert str(_reason(tmp_path, 1)) == "training loss became nan"
