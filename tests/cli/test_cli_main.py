import dataclasses
import errno
import io
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from flashnas import __main__ as entry
from flashnas.api.calling import takes
from flashnas.api.estimate import EstimateOptions
from flashnas.api.search import SearchOptions
from flashnas.cli.command import COMMANDS
from flashnas.cli.main import main
from flashnas.cli.progress import SearchProgress
from flashnas.study.record import Snapshot

ESTIMATE, SEARCH = "flashnas.api.estimate.estimate", "search --out run"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["SIGINT", "SIGTERM", "SIGHUP"]
)
@pytest.mark.parametrize(
    ("place", "command", "words"),
    [
        ("flashnas.cli.main.find_command", SEARCH, "flashnas: interrupted"),
        (
            "flashnas.study.run_search.load_problem",
            SEARCH,
            "flashnas search: interrupted; finished work is kept; continue with:"
            " flashnas"
            " search --out run --resume",
        ),
        (
            "flashnas.profiling.profile.profile",
            "profile --out table",
            "flashnas profile: interrupted; finished work is kept; continue with: flashnas profile"
            " --out table",
        ),
        (ESTIMATE, "estimate 2048:f", "flashnas estimate: interrupted"),
    ],
)
def test_a_signal_at_any_time_is_one_line(
    capsys, monkeypatch, tmp_path, number, place, command, words
):
    def reached(*_, **__):
        signal.raise_signal(number)
        raise AssertionError("not interrupted")

    reached.options = EstimateOptions
    # not this test's end; and a shell may have let this process ignore one of them
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: lambda *_: None,
        signal.SIGHUP: lambda *_: None,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, reached)
    try:
        assert main(command.split()) == 130
        assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err.strip() == words


def test_a_signal_while_the_modules_are_loaded_is_one_line(capsys, monkeypatch):
    class Interrupted:
        def find_spec(self, name, path=None, target=None):
            if name == "flashnas.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "flashnas.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert entry.main() == 130
    assert capsys.readouterr().err == "\nflashnas: interrupted\n"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"flashnas": "flashnas.__main__:main"}


def test_a_command_without_stdout_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list", "presets"]) == 0


@pytest.mark.parametrize(
    ("encoding", "expected"), [("ascii", b"\\u03bb\n"), ("utf-8", "\u03bb\n".encode())]
)
def test_letters_that_the_terminal_does_not_have_are_escaped(monkeypatch, encoding, expected):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    monkeypatch.setattr("flashnas.cli.main._main", lambda words: print("\u03bb"))
    main(["list"])
    assert output.getvalue() == expected


def test_the_reader_of_a_command_may_leave_early():
    for words in (["--help"], ["search", "--help"], ["list", "presets"]):
        child = subprocess.run(
            f"{sys.executable} -m flashnas {' '.join(words)} | head -n 0",
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.stderr == ""


def test_what_a_terminal_obeys_is_printed_as_text(build_run, capsys):
    evil = "\x1b]0;PWN\x07\x1b[2J\r\nroot# "
    run = build_run()
    front = run / "pareto" / "01.yaml"
    entry = yaml.safe_load(front.read_text())
    front.write_text(yaml.safe_dump({**entry, "label": evil}))
    frame = pd.read_parquet(run / "trials.parquet")
    frame.assign(label=evil, reason=evil).to_parquet(run / "trials.parquet")
    assert main(["report", str(run)]) in (0, 2)
    out, err = capsys.readouterr()
    assert not {letter for letter in out + err if not letter.isprintable()} - {"\n"}
    assert not [line for line in (out + err).splitlines() if line.startswith("root#")]


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    @takes(EstimateOptions)
    def bug(_):
        raise ZeroDivisionError

    monkeypatch.setattr(ESTIMATE, bug)
    with pytest.raises(ZeroDivisionError):
        main(["estimate", "1024: d"])


def test_what_is_said_of_a_disk_fits_the_error(refused, monkeypatch):
    again = "free room; finished work is kept; continue with: flashnas search --out "
    full = (errno.ENOSPC, errno.EFBIG)
    for number, words in (*((number, again) for number in full), (errno.EROFS, "Read-only")):
        # of a limit of the shell, libraries do not name the file
        where = () if number == errno.EFBIG else ("run/trials.parquet",)

        def failing(*_, number=number, where=where, **__):
            raise OSError(number, os.strerror(number), *where)

        monkeypatch.setattr("flashnas.study.run_search.run_search", failing)
        error = refused("search")
        assert words in error
        assert ("free room" in error) == (number in full)


def test_budgets_and_options_are_read_from_pairs(monkeypatch, refused):
    seen = []
    monkeypatch.setattr("flashnas.api.search.search", takes(SearchOptions)(seen.append))
    assert (
        main(
            shlex.split(
                "search --budget-ms 14 --budget tpot_ms=2 --budget 'memory_gb = 8' "
                "--executor-option worker_memory_gb=2.5 --objectives 'loss, params'"
            )
        )
        == 0
    )
    assert seen[0].budgets == {"latency_ms": 14.0, "tpot_ms": 2.0, "memory_gb": 8.0}
    assert seen[0].executor_options == {"worker_memory_gb": 2.5}
    assert seen[0].objectives == ("loss", "params")
    for pairs, words in (
        ("tpot_ms", "--budget must read METRIC=LIMIT; got 'tpot_ms'"),
        ("tpot_ms=fast", "--budget tpot_ms must be a number; got 'fast'"),
        ("=2", "--budget must read METRIC=LIMIT"),
        ("tpot_ms=1 --budget tpot_ms=2", "--budget gives 'tpot_ms' twice"),
    ):
        assert refused(f"search --budget {pairs}").startswith(f"flashnas search: {words}")


def test_every_command_has_json_and_a_line_of_help(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    for name, command in COMMANDS.items():
        assert [
            line
            for line in lines
            if line.split()[:1] == [name] and line.strip().endswith(command.summary)
        ], name
        for words in (
            ([name, action] for action in command.actions) if command.actions else [[name]]
        ):
            assert main([*words, "--help"]) == 0
            assert "--json" in capsys.readouterr().out


def test_the_progress_line_says_what_is_known():
    snapshot = Snapshot(
        done=3,
        failed=1,
        total=27,
        best_loss=5.125,
        best_latency_ms=12345.6,
        remaining_s=130,
        known=2,
    )
    assert SearchProgress.line(snapshot, 61) == (
        "[  8 %] 2 of 25 networks trained, 1 of them failed, 2 known before"
        " | 1 min 01 s gone, 2 min 10 s left | lowest loss 5.125 nats/token at 12,346 ms"
    )
    stream = io.StringIO()
    progress = SearchProgress(stream, "searching")
    for best in (5.125, 5.125, 5.25):  # another network is the best, by the expected full loss
        progress.update(dataclasses.replace(snapshot, best_loss=best))
    losses = [line.partition("loss ")[2][:5] for line in stream.getvalue().splitlines()]
    assert losses == ["5.125", "5.250"]
