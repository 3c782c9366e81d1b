"""Bad input, over all commands: one line that names value or place, exit code 2, no traceback, no
hang, nothing lost.

The cases are the rows of bad_input.yaml. Time and memory of each are limited: what hangs where no
signal is heard ends the tests with a traceback.
"""

import errno
import faulthandler
import json
import os
import resource
import shlex
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cases import data_of
from damage import damage
from invented_times import invent_device, invented_times

from flashnas.cli.main import main
from flashnas.profiling.torch_target import Torch

TABLE = data_of("cli/bad_input")
PRECIOUS = "precious.txt"  # must outlive every case
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


def filled(text, paths):
    """The text with the names in braces replaced."""
    for name, value in {**TABLE["words"], **paths}.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


# -- what is done to files, by its name in the table -----------------------------------------------


def write(path, content, paths):
    """Mappings become YAML, or JSON where the name says so."""
    if not isinstance(content, str):
        dump = json.dumps if path.suffix == ".json" else yaml.safe_dump
        content = dump(content)
    path.write_text(filled(content, paths))


def edit(path, place, value, _):
    damage(path, place, value)


def copy(path, paths):
    """{run}, {training}, {table} or a file beside them, to be damaged."""
    source = paths["root"] / path.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, path)


def remove(path, paths):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path, paths):
    path.mkdir()


def halve(path, paths):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fifo(path, paths):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path, paths):
    path.unlink()
    path.symlink_to(paths["tmp"] / PRECIOUS)


def nest(path, paths):
    """More levels than any file has."""
    path.write_text("[" * 100_000 + "\n")


STEPS = (write, edit, copy, remove, folder, halve, fifo, link, nest)


def prepare(steps, paths):
    actions = {step.__name__: step for step in STEPS}
    for action, name, *values in steps:
        places = sorted(paths["tmp"].glob(name)) if "*" in name else [paths["tmp"] / name]
        assert places
        for path in places:
            path.parent.mkdir(parents=True, exist_ok=True)
            actions[action](path, *values, paths)


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
    """The files of the table, and what the commands make of them, with invented times."""
    root = tmp_path_factory.mktemp("prepared")
    paths = {name: root / name for name in ("table", "run", "training")}
    paths |= {"root": root, "corpus": small_corpus}
    for name, content in TABLE["files"].items():
        paths[Path(name).stem] = root / name
        write(root / name, content, paths)
    with pytest.MonkeyPatch.context() as patch:
        invent_device(patch)
        patch.setattr(Torch, "times", invented_times)
        for command, made in (("profile", "table"), ("search", "run"), ("train", "training")):
            assert main(shlex.split(filled(f"{{{command}}} --out {{{made}}}", paths))) == 0
    return paths


def run(command, paths, capfd):
    capfd.readouterr()
    with limits():
        code = main(shlex.split(filled(command, paths)))
    return (code, *capfd.readouterr())


# -- the table -------------------------------------------------------------------------------------


def id_of(case):
    return " ".join([case["run"], *(f"{step[0]}:{step[1]}" for step in case.get("files", ()))])


@pytest.mark.parametrize("case", TABLE["cases"], ids=id_of)
def test_what_the_user_got_wrong_is_one_line(case, prepared, tmp_path, capfd, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / PRECIOUS).write_text("mine")
    paths = {**prepared, "tmp": here}
    prepare(case.get("files", ()), paths)
    monkeypatch.chdir(here)
    code, out, err = run(case["run"], paths, capfd)
    assert "Traceback" not in err, err[-1500:]
    assert code == 2, f"exit code {code}; stdout:\n{out[-500:]}\nstderr:\n{err[-1500:]}"
    assert out == ""
    assert err.startswith("flashnas"), err[:500]
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, f"{len(err.splitlines())} lines:\n{err[-1500:]}"
    assert len(err) <= LONGEST_LINE, f"{len(err)} characters"
    for fragment in case["says"]:
        assert any(filled(part, paths) in err for part in fragment.split("|")), (fragment, err)
    assert not [fragment for fragment in case.get("never", ()) if fragment in err]
    for file in (path for path in here.rglob(PRECIOUS) if path.is_file()):
        assert file.read_text() == "mine"


# -- what no table of refusals can say -------------------------------------------------------------


@pytest.mark.parametrize("command", ["search", "train", "profile", "export"])
def test_a_place_that_cannot_be_written_is_named_at_once(
    command, prepared, tmp_path, capfd, monkeypatch
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
    monkeypatch.setattr(os, "mkdir", mkdir)
    words = f"{{{command}}} --out {{tmp}}/closed/out"
    code, out, err = run(words, {**prepared, "tmp": tmp_path}, capfd)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "closed" in err
    assert "free room" not in err


def test_a_renamed_run_is_continued_without_training_again(prepared, tmp_path, capfd):
    """The run is what the folder holds, not what it is called."""
    moved = shutil.copytree(prepared["run"], tmp_path / "run")
    before = pd.read_parquet(moved / "trials.parquet")
    journal = (moved / "journal.jsonl").read_bytes()
    code, _, err = run("{again}", {**prepared, "tmp": tmp_path}, capfd)
    assert code == 0, err
    after = pd.read_parquet(moved / "trials.parquet")
    assert after["train_seconds"].equals(before["train_seconds"])
    assert (moved / "journal.jsonl").read_bytes() == journal
