"""One candidate by two processes: the loss of one process, and no way to fail that leaves a process behind."""

import json
import os
import signal
import time
from pathlib import Path

import dying_ranks
import pytest
from offenders import every

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateDiedError, CandidateMemoryError, DeviceError
from flashnas.data.dataset import prepare_dataset
from flashnas.executors.base import Work
from flashnas.executors.local import LocalExecutor
from flashnas.proxy.together import _error, _reason
from flashnas.proxy.worker import run_candidate
from flashnas.training.recipe import Recipe


@pytest.fixture(scope="module")
def job(small_corpus, quick_recipe, tmp_path_factory):
    """AdamW, since Muon's iterations in bfloat16 turn rounding into noise."""
    path = tmp_path_factory.mktemp("recipe") / "two.yaml"
    path.write_text(quick_recipe.read_text() + "optimizer: adamw\nclip: 0.5\nmicro_batch_sequences: 1\n")
    recipe = Recipe.load(path)
    network = Architecture.parse("64: d(head_dim=16) f a(head_dim=16) f m2(head_dim=16,state=16) f")
    return {"architecture": network.to_dict(),
            "dataset": str(prepare_dataset(str(small_corpus), recipe, None).folder), "recipe": recipe.to_dict(),
            "seed": 3}


@pytest.fixture(scope="module")
def by_two(job):
    return run_candidate({**job, "processes": 2})


@pytest.mark.slow
def test_two_processes_give_the_score_of_one(job, by_two):
    by_one = run_candidate(job)
    assert by_two["loss"] == pytest.approx(by_one["loss"], rel=2e-5)
    assert [tokens for tokens, _ in by_two["curve"]] == [tokens for tokens, _ in by_one["curve"]]
    assert [loss for _, loss in by_two["curve"]] == pytest.approx([loss for _, loss in by_one["curve"]], rel=2e-5)
    same = ("tokens", "seed", "proxy_params", "backends")
    assert {name: by_two[name] for name in same} == {name: by_one[name] for name in same}


@pytest.mark.slow
def test_they_pause_and_train_on_together(job, by_two, tmp_path):
    paused = {**job, "processes": 2, "checkpoints": str(tmp_path / "checkpoint")}
    first = run_candidate({**paused, "pause_tokens": by_two["curve"][0][0]})
    assert first["tokens"] == by_two["curve"][0][0]
    assert first["checkpoint_problem"] == ""
    assert run_candidate(paused)["loss"] == pytest.approx(by_two["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("do", "who", "steps", "error", "words"), [
    ("lacks memory", "1", 2, CandidateMemoryError, "out of memory while training"),
    ("killed", "1", 2, CandidateMemoryError, r"a process of the training died \(SIGKILL, out of memory\?\)"),
    ("crashes", "0", 0, CandidateDiedError, r"a process of the training died \(SIGSEGV\)")])
def test_what_one_process_says_is_the_reason_and_all_end(job, monkeypatch, do, who, steps, error, words,
                                                         importable_helpers):
    for name, value in (("RANKS_DO", do), ("RANKS_WHO", who), ("RANKS_STEPS", str(steps))):
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=words):
        dying_ranks.run({**job, "processes": 2})
    assert not [pid for pid, words in processes() if "dying_ranks" in words and str(os.getpid()) in words]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["time limit", "kill of the worker", "close"])
def test_hanging_processes_end_with_their_worker(job, monkeypatch, tmp_path, end, importable_helpers):
    for name, value in (("RANKS_DO", "hangs"), ("RANKS_WHO", "01"), ("RANKS_PIDS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    executor = LocalExecutor(Work(function=dying_ranks.run, workers=1, timeout_s=600, processes=2))
    with executor:
        executor.submit("a", {**job, "processes": 2}, timeout_s=600)
        while len(hanging := [path for path in tmp_path.iterdir() if path.read_text()]) < 2:
            assert not executor.finished(0.5)
        pids = {int(path.name) for path in hanging} | {int(path.read_text()) for path in hanging}
        assert len(pids) == 3  # both, and torchrun
        if end == "time limit":
            executor._slots[0].deadline = time.monotonic()
            while not (ended := executor.finished(1.0)):
                pass
            assert ended[0][1].reason == "time limit of 600 s exceeded"
        elif end == "kill of the worker":
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


@every(case=[
    ({"class": "CorpusError", "module": "flashnas.base.errors", "text": "/a: no"}, "CorpusError", "/a: no"),
    ({"class": "ModuleNotFoundError", "module": "builtins", "text": "No module"}, "ModuleNotFoundError", "No module"),
    ({"class": "CompilationError", "module": "triton.compiler", "text": "at"}, "DeviceError", "CompilationError: at"),
    ({"class": "UnicodeDecodeError", "module": "builtins", "text": "x"}, "DeviceError", "UnicodeDecodeError: x")])
def test_errors_of_another_process_keep_their_meaning(case):
    said, kind, text = case
    found = _error(said)
    assert (type(found).__name__, str(found)) == (kind, text)


def test_of_several_reports_the_first_that_is_not_of_a_lost_connection_is_the_reason(tmp_path):
    for rank, text in enumerate(("Connection closed by peer", "training loss became nan", "out of disk")):
        (tmp_path / f"failed-{rank}").write_text(json.dumps(
            {"class": "CandidateError", "module": "flashnas.base.errors", "text": text, "lost": rank == 0}))
    assert str(_reason(tmp_path, 1)) == "training loss became nan"


def test_a_torchrun_that_cannot_start_is_one_line(tmp_path):
    (tmp_path / "output").write_text("Traceback (most recent call last):\n  File\nImportError: No module named 'x'\n")
    found = _reason(tmp_path, 1)
    assert isinstance(found, DeviceError)
    assert str(found) == "torchrun could not train: ImportError: No module named 'x'"
