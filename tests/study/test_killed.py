"""What docs/search.md promises of each command, with a folder that --out names: it outlives SIGHUP
under nohup, says how it goes on when SIGTERM ends it, is the only writer of its folder, leaves no
process behind, even when kill -9 ends it, and goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from cases import cases
from config_keys import with_keys
from test_interrupt import LIMIT_S, mark, marked  # noqa: F401  (a fixture)

from flashnas.cli.main import main
from flashnas.profiling import regression, timing

# command -> its words, the file that grows as it goes on, the words that continue it, who is there
COMMANDS = cases("study", "commands")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on(
    name,
    tmp_path,
    small_corpus,
    quick_recipe,
    mark,  # noqa: F811
    capsys,
    monkeypatch,
):
    text, file, resume, busy = COMMANDS[name]
    keys = with_keys(tmp_path, cycle_size=4, baselines=False, measure=False, evidence="none")[1]
    words = text.format(texts=small_corpus, recipe=quick_recipe, keys=keys)
    out = tmp_path / "out"
    words = [name, *words.split(), "--out", str(out)]

    def lines():
        return (out / file).read_bytes().count(b"\n") if (out / file).exists() else 0

    def grown(process):
        """Wait until it has written two more lines."""
        least, until = lines() + 2, time.monotonic() + LIMIT_S
        while lines() < least and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[1]

    def start(*more):
        begun = ["nohup", sys.executable, "-m", "flashnas", *words, *more]
        process = subprocess.Popen(
            begun, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        grown(process)
        return process

    def ended(process, number):
        process.send_signal(number)
        said, until = process.communicate(timeout=LIMIT_S)[1], time.monotonic() + 15
        while (left := set(marked(mark)) - {os.getpid()}) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left
        return said

    process = start()
    process.send_signal(signal.SIGHUP)
    grown(process)
    said = ended(process, signal.SIGTERM)
    assert process.returncode == 130, said
    assert "interrupted; finished work is kept; continue with: flashnas" in said.splitlines()[-1]
    before = lines()
    process = start(*resume)
    assert before > 2
    assert main([*words, *resume]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(busy)
    ended(process, signal.SIGKILL)
    monkeypatch.setattr(timing, "MOST", timing.LEAST)
    monkeypatch.setattr(regression, "BOOTSTRAPS", 20)
    assert main([*words, *resume]) == 0
