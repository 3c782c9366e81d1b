"""Files, folders and locks after crashes; threads and signals of a process."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys

import pytest

from flashnas.base import system as files
from flashnas.base.errors import RunError
from flashnas.base.foreign import complete_lines, drop_torn_line
from flashnas.base.system import (
    THREAD_VARIABLES,
    atomic_file,
    atomic_folder,
    disk_errors,
    hold_lock,
    limit_threads,
    recover_folder,
    replace_folder,
    system_error,
    terminate_as_interrupt,
    usable_cores,
    write_atomic,
)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_half(path):
    path.write_text("half")
    raise ValueError("half")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def folder_with(path, content):
    path.mkdir()
    (path / "content").write_text(content)
    return path


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path):
    write_atomic(tmp_path / "text", "é\n")
    write_atomic(tmp_path / "bytes", b"\xff\r\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "bytes").read_bytes() == b"\xff\r\n"
    assert os.stat(tmp_path / "text").st_mode & 0o777 == files.FILE_MODE


def test_a_file_appears_in_a_folder_that_readers_can_list(tmp_path):
    with atomic_file(tmp_path / "a") as part:
        part.write_text("x")
        assert part.name.startswith(".a.")
        assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="half"), atomic_file(tmp_path / "a") as part:
        write_half(part)
    assert (tmp_path / "a").read_text() == "x"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("existing", ["keep", "replace", "refuse"])
def test_an_error_within_atomic_folder_leaves_nothing(tmp_path, existing):
    with (
        pytest.raises(ValueError, match="half"),
        atomic_folder(tmp_path / "deep/out", existing=existing) as fresh,
    ):
        write_half(fresh / "a")
    assert names(tmp_path / "deep") == []


def test_a_new_folder_has_all_files_and_rights(tmp_path):
    with atomic_folder(tmp_path / "out") as fresh:
        (fresh / "a").write_text("x")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert os.stat(tmp_path / "out").st_mode & 0o777 == files.FOLDER_MODE


@pytest.mark.parametrize(
    ("existing", "content"), [("keep", "first"), ("replace", "second"), ("refuse", "first")]
)
def test_of_two_writers_of_one_folder(tmp_path, existing, content):
    refused = pytest.raises(OSError, match="not empty")
    with (
        refused if existing == "refuse" else contextlib.nullcontext(),
        atomic_folder(tmp_path / "out", existing=existing) as fresh,
    ):
        (fresh / "content").write_text("second")
        folder_with(tmp_path / "out", "first")
    assert (tmp_path / "out/content").read_text() == content
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("old", ["folder", "missing", "file"])
def test_a_folder_replaces_what_was_there(tmp_path, old):
    new = folder_with(tmp_path / "new", "new")
    if old == "folder":
        folder_with(tmp_path / "pareto", "old")
    elif old == "file":
        (tmp_path / "pareto").write_text("old")
    replace_folder(new, tmp_path / "pareto")
    assert (tmp_path / "pareto/content").read_text() == "new"
    assert names(tmp_path) == ["pareto"]


def test_a_refused_replacement_keeps_the_old_folder(tmp_path):
    folder_with(tmp_path / "pareto", "old")
    with pytest.raises(OSError, match="No such file"):
        replace_folder(tmp_path / "missing", tmp_path / "pareto")
    assert (tmp_path / "pareto/content").read_text() == "old"
    assert names(tmp_path) == ["pareto"]


def test_a_process_that_is_killed_while_it_replaces_a_folder_loses_none(tmp_path):
    script = (
        "import sys; from pathlib import Path; from flashnas.base.system import replace_folder\n"
        "root = Path(sys.argv[1]); count = 0\n"
        "while True:\n"
        "    new = root / f'new{count}'; new.mkdir(); (new / 'content').write_text('x')\n"
        "    replace_folder(new, root / 'pareto'); count += 1; print(count, flush=True)\n"
    )
    folder_with(tmp_path / "pareto", "x")
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(100):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    recover_folder(tmp_path / "pareto")
    assert (tmp_path / "pareto/content").exists()


def test_a_folder_that_a_crash_left_aside_comes_back(tmp_path):
    folder_with(tmp_path / ".pareto.old", "old")
    recover_folder(tmp_path / "pareto")
    assert (tmp_path / "pareto/content").read_text() == "old"
    folder_with(tmp_path / ".pareto.old", "older")
    recover_folder(tmp_path / "pareto")
    assert (tmp_path / "pareto/content").read_text() == "old"
    assert names(tmp_path) == ["pareto"]


def test_a_lock_keeps_others_out_until_its_process_is_killed(tmp_path):
    path, busy = tmp_path / ".lock", RunError("runs/a: another process is writing this run")
    script = (
        "import sys, time; from pathlib import Path; from flashnas.base.system import hold_lock\n"
        "from flashnas.base.errors import RunError\n"
        "lock = hold_lock(Path(sys.argv[1]), RunError('busy')); print('held', flush=True);"
        " time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="another process is writing"):
            hold_lock(path, busy)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with hold_lock(path, busy), pytest.raises(RunError):
        hold_lock(path, busy)
    hold_lock(path, busy).release()
    assert path.exists()


@pytest.mark.parametrize(
    ("before", "after"), [("a\nb\nc", "a\nb\n"), ("a\nb\n", "a\nb\n"), ("torn", ""), ("", "")]
)
def test_a_torn_last_line_is_dropped(tmp_path, before, after):
    path = tmp_path / "journal.jsonl"
    path.write_text(before)
    drop_torn_line(path)
    assert path.read_text() == complete_lines(before) == after


def test_errors_of_the_disk_become_one_line():
    with (
        pytest.raises(
            RunError,
            match=r"^runs/a: cannot be written: No space left on device; choose another --out$",
        ),
        disk_errors("runs/a: cannot be written", RunError, "; choose another --out"),
    ):
        full_disk()
    with (
        pytest.raises(RunError, match=r"^out: Read-only file system$"),
        disk_errors("out", RunError),
    ):
        raise RuntimeError(
            "Error while serializing: I/O error: Read-only file system (os error 30)"
        )
    with pytest.raises(ZeroDivisionError), disk_errors("out", RunError):
        raise ZeroDivisionError
    with pytest.raises(RunError, match=r"^another$"), disk_errors("out", RunError):
        raise RunError("another")
    assert system_error(ValueError("no number")) is None


@pytest.mark.parametrize(
    ("keep", "expected"), [(False, ["3", "3", "3", "3"]), (True, ["8", "3", "3", "3"])]
)
def test_a_limit_reaches_every_library_and_may_keep_what_the_user_set(monkeypatch, keep, expected):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    limit_threads(3, keep=keep)
    assert [os.environ[name] for name in THREAD_VARIABLES] == expected


def test_an_interrupt_while_handlers_are_set_leaves_the_ones_that_were_there(monkeypatch):
    numbers, really = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.signal
    before = [signal.getsignal(number) for number in numbers]

    def set_and_interrupt(number, handler):
        really(number, handler)
        monkeypatch.setattr(signal, "signal", really)
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", set_and_interrupt)
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        pass
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        really(number, handler)
    assert after == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_bounds_the_cores():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() <= len(before)
