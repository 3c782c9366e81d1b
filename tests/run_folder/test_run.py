"""Reading a run folder: what is right comes back as written, what is wrong gets one clear line."""

import dataclasses

import pandas as pd
import pytest
import yaml
from cases import cases, data_of
from damage import check_damage
from one_line import one_line
from run_builder import write_answered_run

from flashnas.architecture.source import load_architecture
from flashnas.base.errors import RunError
from flashnas.base.foreign import check_count
from flashnas.run_folder.layout import as_recorded, front_path, read_front, write_front
from flashnas.run_folder.recorded_run import RecordedRun


def error_of(folder):
    message = one_line(RunError, RecordedRun.load, folder)
    assert str(folder) in message
    return message


def test_a_run_that_is_still_going_can_be_read(build_run):
    run = RecordedRun.load(
        build_run(6, front=[], config={"finished": None, "seconds": None, "totals": None})
    )
    assert run.front == ()
    assert len(run.trials) == 6


def test_what_is_no_run_says_why(tmp_path):
    assert "no such folder" in error_of(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "a run is a folder" in error_of(tmp_path / "file")
    assert "not a run folder (it has no run.yaml)" in error_of(tmp_path)


def test_a_damaged_file_says_so(build_run):
    folder = build_run(3)
    data = (folder / "trials.parquet").read_bytes()
    (folder / "trials.parquet").write_bytes(data[: len(data) // 2])
    assert "trials.parquet: damaged, not readable as parquet" in error_of(folder)
    pd.DataFrame({"number": [1], "origin": ["search"]}).to_parquet(folder / "trials.parquet")
    assert "column 'cycle' is missing" in error_of(folder)
    (folder / "run.yaml").write_text("name: demo\nspace: [1, 2\n")
    assert "run.yaml:" in error_of(folder)


def test_a_run_without_trials_says_so(build_run):
    folder = build_run(3)
    pd.read_parquet(folder / "trials.parquet").head(0).to_parquet(folder / "trials.parquet")
    assert "the run holds no trials yet" in error_of(folder)
    (folder / "trials.parquet").unlink()
    assert "the run holds no trials yet" in error_of(folder)


def test_an_entry_of_the_front_is_read_as_it_was_written(build_run):
    folder = build_run(4)
    entry = read_front(folder)[0]
    assert entry.operators_ms["head"]["imported"] > 0
    for missed, runs_in in ((None, None), ((), {}), (("latency_ms",), {"llama.cpp": "gguf"})):
        changed = dataclasses.replace(entry, missed=missed, runs_in=runs_in)
        (again,) = write_front(folder / "pareto", [changed])
        assert read_front(folder) == (again,) == (changed,)
    assert load_architecture(str(front_path(folder, again))) == entry.architecture


def test_damaged_trials_name_the_column_and_the_rule(build_run):
    folder = build_run(3)
    sound = pd.read_parquet(folder / "trials.parquet")
    for column, value, words in cases("run_folder", "damaged_trials"):
        sound.assign(**{column: value}).to_parquet(folder / "trials.parquet")
        message = error_of(folder)
        assert f"damaged: column {column!r}" in message
        assert words in message


@pytest.mark.parametrize("trained", [True, False])
def test_the_answer_comes_back_as_it_was_written(tmp_path, trained):
    run = RecordedRun.load(write_answered_run(tmp_path / "demo", trained=trained))
    answer = yaml.safe_load((run.path / "run.yaml").read_text())["answer"]
    found = as_recorded(run.answer.to_dict())
    assert {key: entry for key, entry in found.items() if key in answer} == answer
    assert run.answer.tied == (run.front[-2].hash,)
    assert run.quality == "full_loss"
    assert run.ranks_full
    assert run.untrained is not trained
    assert len(run.trained) == (35 if trained else 0)
    assert len(run.scored) == 35
    titles = [family["family"] for family in run.answer.families]
    assert list(run.baselines["label"]) == [*titles, "free mix"]


def test_damage_names_line_rule_and_value(tmp_path):
    folder = write_answered_run(tmp_path / "demo")
    check_damage(
        folder,
        data_of("run_folder/damage"),
        RunError,
        lambda folder: RecordedRun.load(folder).recommended,
    )


def test_the_values_in_cells_of_trials_are_counted_together(build_run, monkeypatch):
    limits = {**check_count.__kwdefaults__, "most": 300}
    monkeypatch.setattr(check_count, "__kwdefaults__", limits)
    assert "must hold at most 300 values" in error_of(build_run())
