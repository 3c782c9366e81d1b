import errno
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from flashnas.base.errors import RunError
from flashnas.study.folder import RunRecord, write_atomic
from flashnas.study.trial import Trial

QUESTION = {"space": "tiny", "seed": 0}


def outcome(name, loss=1.0):
    score = None if loss is None else {"loss": loss}
    return {"hash": name, "notation": f"64: {name}", "score": score, "reason": "" if score else "NaN"}


def opened(path, resume=False, **changes):
    return RunRecord(path, question={**QUESTION, **changes}, facts={"flashnas": "0"}, resume=resume)


def test_outcomes_survive_and_are_remembered_by_hash(tmp_path):
    record = opened(tmp_path / "run")
    for name, loss in (("x", 1.5), ("y", None)):
        record.remember(outcome(name, loss), params={}, distributions={}, values=loss and [loss, 2.0])
    record._lock.close()
    again = opened(tmp_path / "run", resume=True)
    assert again.memory == {"x": outcome("x", 1.5), "y": outcome("y", None)}


def test_a_line_torn_by_a_kill_is_cut_and_the_rest_kept(tmp_path):
    record = opened(tmp_path / "run")
    record.remember(outcome("x"), params={}, distributions={}, values=[1.0, 2.0])
    record._lock.close()
    with open(tmp_path / "run" / "study.journal", "ab") as file:
        file.write(b'{"op_code": 4, "worker')
    again = opened(tmp_path / "run", resume=True)
    again.remember(outcome("z"), params={}, distributions={}, values=[1.0, 2.0])
    again._lock.close()
    assert set(opened(tmp_path / "run", resume=True).memory) == {"x", "z"}


@pytest.mark.parametrize(("changes", "resume", "words"), [
    ({}, False, "continue it with --resume"),
    ({"space": "other"}, True, "question.space is 'tiny', but this search asks 'other'; the run folder belongs to"),
    ({"seed": 1}, True, "question.seed is 0, but this search asks 1"),
])
def test_a_folder_with_a_run_is_not_overwritten(tmp_path, changes, resume, words):
    opened(tmp_path / "run")._lock.close()
    with pytest.raises(RunError) as caught:
        opened(tmp_path / "run", resume=resume, **changes)
    assert words in str(caught.value)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is no run folder"):
        opened(tmp_path)


def test_two_processes_cannot_write_one_run(tmp_path):
    record = opened(tmp_path / "run")
    script = ("from flashnas.study.folder import RunRecord; from pathlib import Path\n"
              f"RunRecord(Path({str(tmp_path / 'run')!r}), question={QUESTION!r}, facts={{}}, resume=True)")
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "another process is writing this run" in child.stderr
    assert record.path.exists()


def test_a_storage_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(RunError, match="storage nonsense://x: cannot be opened") as caught:
        RunRecord(tmp_path / "run", question=QUESTION, facts={}, resume=False, storage="nonsense://x")
    assert "\n" not in str(caught.value)


def test_any_optuna_storage_holds_the_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    record = RunRecord(tmp_path / "run", question=QUESTION, facts={}, resume=False, storage=url)
    record.remember(outcome("x"), params={}, distributions={}, values=[1.0, 2.0])
    record._lock.close()
    again = RunRecord(tmp_path / "run", question=QUESTION, facts={}, resume=True, storage=url)
    assert again.memory["x"] == outcome("x")


def test_trials_and_front_are_written_whole(tmp_path):
    record = opened(tmp_path / "run")
    trials = [Trial(number=0, cycle=0, origin="search", state="infeasible", genotype={"a": 1}),
              Trial(number=1, cycle=0, origin="search", state="complete", genotype={}, loss=1.0, curve=[[1, 2.0]])]
    record.write_trials(trials)
    frame = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert list(frame.columns) == list(trials[0].to_dict())
    assert frame["curve"].tolist() == ["[]", "[[1, 2.0]]"]
    assert frame["params"].isna().all()
    for entries in ([{"n": 1}, {"n": 2}], [{"n": 3}]):
        paths = record.write_front(entries)
        assert [yaml.safe_load(p.read_text()) for p in paths] == entries
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith((".part", ".pareto"))]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
