"""Ctrl-C, which a terminal sends to all processes of a command, on each executor: exit code 130,
the command that continues, and no process that is left."""

import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from config_keys import with_keys
from fresh import python_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
LIMIT_S = 180


@pytest.fixture
def mark(monkeypatch):
    """In the environment of all that is started here."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FLASHNAS_TEST_MARK", mark)
    monkeypatch.setenv("PYTHONPATH", python_path(Path(__file__).parents[2]))
    return mark


def marked(mark):
    """Processes that were started here and have not ended: number -> command."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes() and (
                words := (place / "cmdline").read_bytes()
            ):
                found[int(place.name)] = words.decode().replace("\0", " ")[:100]
        except OSError:
            continue
    return found


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "flashnas", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("more", [(), ("--executor", "ray")], ids=["local", "ray"])
def test_ctrl_c_ends_a_search_and_all_its_processes(
    tmp_path, small_corpus, quick_recipe, mark, signals_heard, more
):
    if "ray" in more:
        pytest.importorskip("ray")
    out = tmp_path / "run"
    asked = (
        f"search --space tiny --table h100_sxm --workload chat --recipe {quick_recipe} --data"
        f" {small_corpus} --trials 300 --sampler random --workers 2 --out {out}"
    )
    keys = with_keys(tmp_path, cycle_size=2, baselines=False, measure=False, evidence="none")
    words = [*asked.split(), *keys, *more]
    search = start(*words)
    try:
        until = time.monotonic() + LIMIT_S
        while (
            not (out / "trials.parquet").exists()
            and search.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        time.sleep(0.3)
        assert len(set(marked(mark)) - {os.getpid()}) > 1
        os.killpg(search.pid, signal.SIGINT)
        _, said = search.communicate(timeout=60)
        assert search.returncode == 130, said
        assert "Traceback" not in said
        again = shlex.join(["flashnas", *words, "--resume"])
        assert said.splitlines()[-1] == (
            f"flashnas search: interrupted; finished work is kept; continue with: {again}"
        )
        until = time.monotonic() + 15
        while (left := set(marked(mark)) - {os.getpid()}) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, marked(mark)
    finally:
        for pid in set(marked(mark)) - {os.getpid()}:
            os.kill(pid, signal.SIGKILL)
