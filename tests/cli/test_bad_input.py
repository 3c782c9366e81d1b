"""Bad input, over all commands: one line that names value or place, exit code 2, no traceback, no
hang, nothing lost.

The cases are in the folder bad_input. Most run in this process. Those that may abort, eat memory or
hang inside a library run in a second process, which serves them one after another and is started
anew when one of them ends it.
"""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

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
MEMORY_BYTES = 8 << 30  # of the second process


class TookTooLongError(BaseException):
    """No Exception, so that no handler in the code under test catches it."""


@contextmanager
def time_limit(seconds):
    def stop(*_):
        raise TookTooLongError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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


class Apart:
    """A process that runs commands one after another: {words, cwd, file_limit} on a line in, the
    exit code out."""

    PROGRAM = """
import json, os, resource, signal, sys, traceback
resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    open("/proc/self/oom_score_adj", "w").write("1000")
except OSError:
    pass
from flashnas.cli.main import main
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    order = json.loads(line)
    os.chdir(order["cwd"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    size = order["file_limit"] or resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        code = main(order["words"])
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.write(f"{code}\\n")
    answers.flush()
"""

    def __init__(self):
        self._process = None

    def run(
        self,
        words,
        cwd,
        file_limit=None,
        seconds=LIMIT_S,
    ):
        """(exit code, None after `seconds`; stdout; stderr)"""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        said = cwd.parent / f"{cwd.name}-stdout", cwd.parent / f"{cwd.name}-stderr"
        order = {
            "words": words,
            "cwd": str(cwd),
            "file_limit": file_limit,
            "stdout": str(said[0]),
            "stderr": str(said[1]),
        }
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        answer = process.stdout.readline() if ready else b""
        code = int(answer) if answer.strip() else process.wait() if ready else None
        if not answer:
            self.close()
        texts = [
            path.read_text(errors="backslashreplace") if path.exists() else "" for path in said
        ]
        return code, texts[0], texts[1]

    def _started(self):
        if self._process is None:
            program = self.PROGRAM.replace("MEMORY", str(MEMORY_BYTES))
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        return self._process

    def close(self):
        """End it with all that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def apart(own_surroundings):
    process = Apart()
    yield process
    process.close()


# -- the table -------------------------------------------------------------------------------------


# those in a process of their own load all libraries anew
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=pytest.mark.slow if case.apart else ())
        for case in CASES
    ],
)
def test_what_the_user_got_wrong_is_one_line(case, prepared, apart, tmp_path, capfd, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    paths = {**prepared, "tmp": here}
    for build in case.files:
        build(paths)
    words = [filled(word, paths) for word in case.words]
    monkeypatch.chdir(here)
    if case.apart:
        code, out, err = apart.run(words, here, case.file_limit)
        assert code is not None, f"not done after {LIMIT_S:g} s; stderr:\n{err[-1500:]}"
    else:
        capfd.readouterr()
        with time_limit(LIMIT_S):
            code = main(words)
        out, err = capfd.readouterr()
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


def ends_well(words, capfd):
    capfd.readouterr()
    with time_limit(LIMIT_S):
        code = main(words)
    return (code, *capfd.readouterr())


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
    code, out, err = ends_well(words, capfd)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "closed" in err
    assert "free room" not in err


def test_a_renamed_run_is_continued_without_training_again(prepared, tmp_path, capfd):
    """The run is what the folder holds, not what it is called (D2)."""
    moved = shutil.copytree(prepared["run"], tmp_path / "moved")
    before = pd.read_parquet(moved / "trials.parquet")
    journal = (moved / "study.journal").read_bytes()
    code, _, err = ends_well(
        [filled(word, prepared) for word in search("--resume", out=str(moved))], capfd
    )
    assert code == 0, err
    after = pd.read_parquet(moved / "trials.parquet")
    assert after["train_seconds"].equals(before["train_seconds"])
    trained = b'"op_code":4,'  # Optuna writes a line of its own whenever a study is opened
    assert (moved / "study.journal").read_bytes().count(trained) == journal.count(trained) > 0
