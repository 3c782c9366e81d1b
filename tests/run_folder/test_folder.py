import contextlib
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cases import cases
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, RunError
from flashnas.run_folder import folder as folder_module
from flashnas.run_folder.folder import RunFolder
from flashnas.run_folder.journal import result_fields
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.study.head import ASKED
from flashnas.trials.trial import COLUMNS, Trial

NAMED = {"space", "table", "recipe"}


def facts(**changes):
    """The head of run.yaml: an option by its name, another entry as a whole."""
    entries = [name for name in NAMED & changes.keys() if isinstance(changes[name], dict)]
    named = {name: changes.pop(name) for name in entries}
    return {
        "flashnas": "0",
        "options": {"space": "tiny", **changes},
        "space": {"name": "tiny", "hash": "0"},
        "objectives": ["loss", "latency_ms"],
        **named,
    }


def result(loss=1.0):
    """Score and reason of an evaluation."""
    return (None, "NaN") if loss is None else ({"loss": loss, "seconds": 0.5}, "")


def opened(path, resume=False, **changes):
    return RunFolder(path, facts=facts(**changes), asked=ASKED, resume=resume)


def remember(journal, name, loss=1.0):
    journal.remember(name, f"64: {name}", *result(loss))


def results(path):
    """Those in the journal of the run, opened once more."""
    with opened(path, resume=True) as folder:
        return folder.open_journal().results


def trial(name, number=0, state="complete"):
    return Trial(
        number=number,
        cycle=0,
        origin="search",
        state=state,
        genotype={},
        notation=name,
        hash=name,
        loss=1.0,
    )


def error_of(path, resume=True, **changes):
    return one_line(RunError, opened, path, resume=resume, **changes)


@pytest.fixture
def run(tmp_path):
    """A run with two evaluated networks, closed."""
    folder = opened(tmp_path / "run")
    journal = folder.open_journal()
    journal.decide([{"hash": name, "notation": f"64: {name}"} for name in "xy"])
    for name, loss in (("x", 1.5), ("y", None)):
        remember(journal, name, loss)
    folder.write_trials([trial("x"), trial("y", 1, "failed")])
    folder.close()
    return folder.path


def test_results_survive_and_are_remembered_by_hash(run):
    assert results(run) == {
        "x": result_fields(*result(1.5)),
        "y": result_fields(*result(None)),
    }


def test_the_run_time_counts_the_parts_of_an_interrupted_search(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(
        folder_module.time, "monotonic", lambda: clock[0]
    )  # the other one may be set back

    def part(seconds, before, resume=True):
        with opened(tmp_path / "run", resume=resume) as folder:
            folder.write_config(command="")  # a kill after this loses nothing
            assert yaml.safe_load((folder.path / "run.yaml").read_text()).get("seconds") == before
            clock[0] += seconds
            folder.write_trials([trial("x", state="failed")])
            raise KeyboardInterrupt

    for seconds, before in ((60, None), (100, 60), (10, 160)):
        with pytest.raises(KeyboardInterrupt):
            part(seconds, before, resume=before is not None)
    with opened(tmp_path / "run", resume=True) as folder:
        folder.write_finished(20.0, {})
    assert RecordedRun.load(tmp_path / "run").entry("seconds") == 190


def test_times_of_finalists_are_remembered_by_hash(run):
    for times in ({"x": {"latency_ms": 3.0}}, {"y": {"latency_ms": 4.0}}):
        with opened(run, resume=True) as folder:
            folder.open_journal().remember_times(times)
    with opened(run, resume=True) as folder:
        assert folder.open_journal().times == {"x": {"latency_ms": 3.0}, "y": {"latency_ms": 4.0}}


def test_decisions_are_those_of_earlier_processes_in_their_order(run):
    for hashes in ("zy", "x"):
        with opened(run, resume=True) as folder:
            journal = folder.open_journal()
            before = list(journal.decisions)
            journal.decide(
                [{"hash": name, "notation": f"64: {name}", "width": 64} for name in hashes]
            )
            assert journal.decisions == before
    with opened(run, resume=True) as folder:
        assert folder.open_journal().decisions == [["x", "y"], ["z", "y"], ["x"]]


def test_a_line_torn_by_a_kill_is_cut_and_the_rest_kept(run):
    for torn in (b'{"ended": "w", "nota', b'{"decided": [{"ha'):
        with open(run / "journal.jsonl", "ab") as file:
            file.write(torn)
        with opened(run, resume=True) as folder:
            remember(folder.open_journal(), "z")
    assert set(results(run)) == {"x", "y", "z"}


def test_a_journal_that_was_killed_at_its_first_line_begins_again(tmp_path):
    opened(tmp_path / "run").close()
    (tmp_path / "run" / "journal.jsonl").write_text('{"format": 4, "ident')
    with opened(tmp_path / "run", resume=True) as folder:
        remember(folder.open_journal(), "z")
    assert set(results(tmp_path / "run")) == {"z"}


def replaced(old, new):
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((replaced(old, new), words) for old, new, words in cases("run_folder", "journal")),
        (lambda text: "", "lacks 2 of the 2 evaluations that trials.parquet lists"),
        (
            lambda text: "".join(text.splitlines(keepends=True)[:-1]),
            "lacks 1 of the 2 evaluations that trials.parquet lists",
        ),
    ],
)
def test_a_damaged_journal_is_one_line_and_nothing_is_evaluated_again(run, change, words):
    journal = run / "journal.jsonl"
    journal.write_text(change(journal.read_text()))
    message = one_line(RunError, results, run)
    assert f"{journal}:" in message
    assert words in message
    assert "; restore " in message


def test_a_journal_that_is_no_text_or_no_file_is_one_line(run):
    journal = run / "journal.jsonl"
    journal.write_bytes(os.urandom(300) + b"\xff\n")
    assert "journal.jsonl: cannot be read: not UTF-8 text" in one_line(RunError, results, run)
    journal.unlink()
    assert "lacks 2 of the 2 evaluations" in one_line(RunError, results, run)
    journal.unlink()
    journal.mkdir()
    assert "journal.jsonl: must be a regular file; got a folder" in one_line(RunError, results, run)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: run\nformat: 4\n", "space is None, but 'tiny' is asked"),
        ("- a\n", "the top level must be a mapping"),
    ],
)
def test_a_damaged_run_yaml_is_one_line(run, text, words):
    (run / "run.yaml").write_text(text)
    assert words in one_line((RunError, ConfigError), opened, run, resume=True)


LIMITS = {"limits": {"launch_us": 3.0}}
BATCH = {"tokens": 8, "micro_batch_sequences": 0}
NAMES = {"data": "texts+notes.txt", "table": "mine", "tokenizer": "tk.json"}
ELSEWHERE = {"data": "/a/texts+/b/notes.txt", "table": "/c/mine", "tokenizer": "/d/tk.json"}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, {"seed": 1}, "run.yaml: seed is None, but 1 is asked; choose another --out"),
        (
            {},
            {"space": {"name": "other", "hash": "1"}},
            "space.name is 'tiny', but 'other' is asked; choose another --out",
        ),
        (
            {"table": LIMITS},
            {"table": {"limits": {"launch_us": 4.0}}},
            "table.limits is {'launch_us': 3.0}, but {'launch_us': 4.0} is asked;"
            " choose another --out or the same question",
        ),
        ({"recipe": BATCH}, {"recipe": {**BATCH, "tokens": 9}}, "recipe is"),
        ({"recipe": BATCH}, {"recipe": {**BATCH, "micro_batch_sequences": 2}}, None),
        (NAMES, {**NAMES, "data": "texts"}, "data is"),
        (NAMES, ELSEWHERE, None),  # a run may be continued from another folder
    ],
)
def test_a_run_continues_with_the_question_that_it_began_with(tmp_path, first, second, words):
    opened(tmp_path / "run", **first).close()
    assert "continue it with --resume" in error_of(tmp_path / "run", resume=False, **first)
    if words is None:
        opened(tmp_path / "run", resume=True, **second).close()
    else:
        assert words in error_of(tmp_path / "run", **second)


def test_a_run_that_another_process_made_in_the_same_moment_is_not_overwritten(
    tmp_path, monkeypatch
):
    """It is made between the first look at the folder and the lock."""
    really = folder_module.hold_lock

    def late(*words):
        monkeypatch.setattr(folder_module, "hold_lock", really)
        opened(tmp_path / "run", seed=1).close()
        return really(*words)

    monkeypatch.setattr(folder_module, "hold_lock", late)
    assert "continue it with --resume" in error_of(tmp_path / "run", resume=False)


def test_a_search_that_was_killed_while_it_made_its_folder_can_be_started_again(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", ".run.yaml.1x2y3z"):
        (tmp_path / "run" / name).touch()
    opened(tmp_path / "run").close()


# -- the place of a run ----------------------------------------------------------------------------


def test_a_place_that_refuses_a_folder_is_one_line():
    with pytest.raises(
        RunError, match=r"/proc/run: cannot be created|read-only"
    ):  # procfs says ENOENT
        opened(Path("/proc/run"))


def test_two_cannot_write_one_run(tmp_path):
    folder = opened(tmp_path / "run")
    assert "another process is writing this run" in error_of(tmp_path / "run")
    folder.close()
    opened(tmp_path / "run", resume=True)


# -- files -----------------------------------------------------------------------------------------


def entry(notation):
    network = Architecture.parse(notation)
    return Trial.of(network, number=3, state="complete", loss=1.0)


def test_trials_and_front_are_written_whole_and_read_back(tmp_path):
    folder = opened(tmp_path / "run")
    trials = [
        Trial(number=0, cycle=0, origin="search", state="failed", genotype={"a": 1}),
        Trial(
            number=1,
            cycle=0,
            origin="search",
            state="complete",
            genotype={},
            loss=1.0,
            curve=[[1, 2.0]],
        ),
    ]
    folder.write_trials(trials)
    frame = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert list(frame.columns) == COLUMNS
    assert frame["curve"].fillna("").tolist() == ["", "[[1, 2.0]]"]
    assert frame["params"].isna().all()
    for notations in (["2048: a f", "2048: d f"], ["2048: m2"]):
        written = folder.write_front([entry(notation) for notation in notations])
        assert [path.name for path in sorted((tmp_path / "run" / "pareto").iterdir())] == [
            f"{number:02d}.yaml" for number in range(1, len(notations) + 1)
        ]
        assert RecordedRun.load(folder.path).front == tuple(written)
        assert [e.notation for e in written] == notations
    assert (written[0].loss, written[0].latency_ms) == (1.0, None)
    assert not [
        path for path in (tmp_path / "run").iterdir() if path.name.startswith((".part", ".pareto"))
    ]


@pytest.mark.parametrize("call", ["rename", "replace", "rmtree", "mkdtemp"])
def test_a_crash_while_the_front_is_replaced_leaves_the_old_or_the_new_one(
    tmp_path, monkeypatch, call
):
    folder = opened(tmp_path / "run")
    folder.write_trials([trial("x", state="failed")])
    folder.write_front([entry("2048: a f")])
    module = {"rmtree": shutil, "mkdtemp": __import__("tempfile")}.get(call, os)

    def crash(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, call, crash)
    with contextlib.suppress(KeyboardInterrupt):
        folder.write_front([entry("2048: d f")])
    monkeypatch.undo()
    folder.close()
    opened(tmp_path / "run", resume=True).close()
    assert [e.notation for e in RecordedRun.load(folder.path).front] in (
        ["2048: a f"],
        ["2048: d f"],
    )


@pytest.mark.parametrize("written", [None, 3, 5, "4", [4]])
def test_a_run_of_another_format_is_refused_in_one_line(run, written):
    config = yaml.safe_load((run / "run.yaml").read_text())
    config |= {"flashnas": "0.0.9\x1b[31m", "format": written}
    (run / "run.yaml").write_text(yaml.safe_dump(config))
    words = "run.yaml: this version reads run folders of format 4; got"
    for message in (error_of(run), one_line(RunError, RecordedRun.load, run)):
        assert f"{words} {written!r}, written by flashnas 0.0.9" in message
        assert "\x1b" not in message
