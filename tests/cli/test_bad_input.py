"""Bad input, over all commands: one line that names value or place, exit code 2, no traceback, no
hang, nothing lost.

The cases are in the folder bad_input. Time and memory of each are limited: what hangs where no signal
is heard ends the tests with a traceback.
"""

import errno
import faulthandler
import os
import resource
import shutil
import signal
from contextlib import contextmanager

import pandas as pd
import pytest
import yaml
from bad_input import CASES
from bad_input.words import (
    PRECIOUS,
    RECIPE,
    SPACE,
    export,
    filled,
    profile,
    search,
    train,
)
from invented_times import invent_device, invented_times

from flashnas.cli.main import main
from flashnas.profiling.torch_target import Torch

LIMIT_S = float(os.environ.get("BAD_INPUT_LIMIT_S", "60"))  # of one case
LONGEST_LINE = 2000  # characters: nobody reads more
MEMORY_BYTES = 8 << 30


class TookTooLongError(BaseException):
    """No Exception, so that no handler in the code under test catches it."""


@contextmanager
def limits():
    """Of time and memory."""

    def stop(*_):
        raise TookTooLongError(f"not done after {LIMIT_S:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    memory = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, memory[1]))
    faulthandler.dump_traceback_later(2 * LIMIT_S, exit=True)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, memory)
        signal.signal(signal.SIGALRM, before)


# -- what the cases meet ---------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def own_surroundings():
    """No GPU; tokenizers that do not complain about processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, own_surroundings, small_corpus):
    """Recipe and space by hand; table, run and training by the commands, with invented times."""
    root = tmp_path_factory.mktemp("prepared")
    paths = {name: root / name for name in ("table", "run", "training")}
    paths |= {name: root / f"{name}.yaml" for name in ("quick", "space", "quiet")}
    paths["corpus"] = small_corpus
    paths["quick"].write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    paths["quiet"].write_text("measure: false\n")
    paths["space"].write_text(yaml.safe_dump(SPACE, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        invent_device(patch)
        patch.setattr(Torch, "times", invented_times)
        for words in (
            profile(out="{table}"),
            search(out="{run}"),
            train(out="{training}"),
        ):
            assert main([filled(word, paths) for word in words]) == 0
    return paths


def run(words, capfd):
    capfd.readouterr()
    with limits():
        code = main(words)
    return (code, *capfd.readouterr())


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_what_the_user_got_wrong_is_one_line(case, prepared, tmp_path, capfd, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    paths = {**prepared, "tmp": here}
    for build in case.files:
        build(paths)
    monkeypatch.chdir(here)
    code, out, err = run([filled(word, paths) for word in case.words], capfd)
    assert "Traceback" not in err, err[-1500:]
    assert code == 2, f"exit code {code}; stdout:\n{out[-500:]}\nstderr:\n{err[-1500:]}"
    assert out == ""
    assert err.startswith("flashnas"), err[:500]
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, f"{len(err.splitlines())} lines:\n{err[-1500:]}"
    assert len(err) <= LONGEST_LINE, f"{len(err)} characters"
    for fragment in case.expect:
        either = [filled(part, paths) for part in fragment.split("|")]
        assert any(part in err for part in either), f"{' or '.join(either)} is not in: {err}"
    for fragment in case.absent:
        assert fragment not in err
    for file in (path for path in here.rglob(PRECIOUS) if path.is_file()):
        assert file.read_text() == "mine"


# -- what no table of refusals can say -------------------------------------------------------------


@pytest.mark.parametrize("right", [search, train, profile, export])
def test_a_place_that_cannot_be_written_is_named_at_once(
    right, prepared, tmp_path, capfd, monkeypatch
):
    """Without the advice to free room. Root may write anywhere, so the system's answer is
    played.
    """
    really = os.mkdir

    def mkdir(path, *rest, **more):
        if "closed" in os.fspath(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
        return really(path, *rest, **more)

    (tmp_path / "closed").mkdir()
    words = [
        filled(word, {**prepared, "tmp": tmp_path}) for word in right("--out", "{tmp}/closed/out")
    ]
    monkeypatch.setattr(os, "mkdir", mkdir)
    code, out, err = run(words, capfd)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "closed" in err
    assert "free room" not in err


def test_a_renamed_run_is_continued_without_training_again(prepared, tmp_path, capfd):
    """The run is what the folder holds, not what it is called."""
    moved = shutil.copytree(prepared["run"], tmp_path / "moved")
    before = pd.read_parquet(moved / "trials.parquet")
    journal = (moved / "study.journal").read_bytes()
    code, _, err = run(
        [filled(word, prepared) for word in search("--resume", out=str(moved))], capfd
    )
    assert code == 0, err
    after = pd.read_parquet(moved / "trials.parquet")
    assert after["train_seconds"].equals(before["train_seconds"])
    trained = b'"op_code":4,'  # Optuna writes a line of its own whenever a study is opened
    assert (moved / "study.journal").read_bytes().count(trained) == journal.count(trained) > 0
