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
    ASKED,
    CHAT,
    PRECIOUS,
    RECIPE,
    SPACE,
    export,
    filled,
    profile,
    search,
    train,
)

from flashnas.cli.main import main

LIMIT_S = float(os.environ.get("BAD_INPUT_LIMIT_S", "60"))  # of one case
LONGEST_LINE = 2000  # characters: nobody reads more
MEMORY_BYTES = 8 << 30


class TookTooLongError(BaseException):
    """No Exception, so that no handler in the code under test catches it."""


@contextmanager
def limits(file_bytes=None):
    """Of time, memory and the size of a written file."""

    def stop(*_):
        raise TookTooLongError(f"not done after {LIMIT_S:g} s")

    before = signal.signal(signal.SIGALRM, stop), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    memory, size = (
        resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)
    )
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, memory[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes or size[0], size[1]))
    faulthandler.dump_traceback_later(2 * LIMIT_S, exit=True)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, memory)
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGXFSZ, before[1])


# -- what the cases meet ---------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def own_surroundings(tmp_path_factory):
    """A cache of its own; one thread; no GPU; tokenizers that do not complain about processes."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FLASHNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("TOKENIZERS_PARALLELISM", "false")
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, own_surroundings, small_corpus):
    """Recipe and space by hand; table, run and training by the commands."""
    root = tmp_path_factory.mktemp("prepared")
    paths = {name: root / name for name in ("table", "run", "training")}
    paths |= {name: root / f"{name}.yaml" for name in ("quick", "space", "quiet", "bare")}
    paths["corpus"] = small_corpus
    paths["quick"].write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    paths["quiet"].write_text("measure: false\n")
    paths["bare"].write_text("baselines: false\n")
    paths["space"].write_text(yaml.safe_dump(SPACE, sort_keys=False))
    for words in (
        [
            "profile",
            "--space",
            "{space}",
            "--workload",
            CHAT,
            "--seconds",
            "0.02",
            "--out",
            "{table}",
        ],
        ["search", *ASKED, "--out", "{run}"],
        train(out="{training}"),
    ):
        assert main([filled(word, paths) for word in words]) == 0
    return paths


def run(words, capfd, file_bytes=None):
    capfd.readouterr()
    with limits(file_bytes):
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
    code, out, err = run([filled(word, paths) for word in case.words], capfd, case.file_limit)
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


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS], ids=["forbidden", "read-only"])
@pytest.mark.parametrize(
    "right", [search, train, profile, export], ids=["search", "train", "profile", "export"]
)
def test_a_place_that_cannot_be_written_is_named_at_once(
    right, error, prepared, tmp_path, capfd, monkeypatch
):
    """Without the advice to free room (D9). Root may write anywhere, so the system's answer is
    played.
    """
    really = os.mkdir

    def mkdir(path, *rest, **more):
        if "closed" in os.fspath(path):
            raise OSError(error, os.strerror(error), os.fspath(path))
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
    """The run is what the folder holds, not what it is called (D2)."""
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
