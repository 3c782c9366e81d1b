"""`flashnas dashboard`: a run in optuna-dashboard, which cannot change it."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec

import pandas as pd
import pytest

import flashnas as fn
from flashnas.runs.study_view import StudyView

pytestmark = pytest.mark.skipif(find_spec("optuna_dashboard") is None,
                                reason="the extra dashboard is not installed")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run whose evaluator costs nothing."""
    def evaluator(network):
        return {"loss": 10 - network.params / 1e7}

    return fn.search(space="tiny", table="h100_sxm", workload="chat", trials=3, baselines=False, workers=1,
                     evaluator=evaluator, measure=False, out=tmp_path_factory.mktemp("evaluated") / "run").path


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_view_has_the_finished_trials_with_names_and_notes(searched, tmp_path):
    from optuna_dashboard import save_note
    from optuna_dashboard._note import get_note_from_system_attrs

    folder = shutil.copytree(searched, tmp_path / "run")
    journal = folder / "study.journal"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:-1]) + whole[-1][:40])  # the search is writing a line
    before = files(folder)
    view = StudyView(folder, None, save_note)
    run = view.run
    known = view.count
    journal.write_text("".join(whole))
    view.refresh()
    view.refresh()
    trials = view.study.get_trials()
    assert (known, view.count, len(trials)) == (len(trials) - 1, len(trials), len(trials))
    assert view.study.metric_names == [f"{name} + sd" if name == "full_loss" else name for name in run.objectives]
    first = run.trials.set_index("hash").loc[trials[0].user_attrs["hash"]]
    assert trials[0].user_attrs["loss"] == first["loss"]
    assert trials[0].values[run.objectives.index("latency_ms")] == pytest.approx(first["latency_ms"])
    assert trials[0].datetime_start <= trials[0].datetime_complete
    attributes = view.study._storage.get_study_system_attrs(view.study._study_id)
    assert f"`{first['notation']}`" in get_note_from_system_attrs(attributes, trials[0]._trial_id)["body"]
    assert {**before, "study.journal": journal.read_bytes()} == files(folder)


def test_a_trial_has_its_figures_as_soon_as_the_run_has_them(searched, tmp_path):
    """The database has it before the file of the trials, which is written after each cycle."""
    folder = shutil.copytree(searched, tmp_path / "run")
    whole = pd.read_parquet(folder / "trials.parquet")
    whole[:1].to_parquet(folder / "trials.parquet")
    view = StudyView(folder, None, lambda *_: None)
    assert "latency_ms" not in view.study.get_trials()[-1].user_attrs
    whole.to_parquet(folder / "trials.parquet")
    view.refresh()
    figures = whole.set_index("hash")["latency_ms"]
    assert [(trial.number, trial.user_attrs["latency_ms"]) for trial in view.study.get_trials()] == [
        (number, figures[trial.user_attrs["hash"]]) for number, trial in enumerate(view.study.get_trials())]


@pytest.mark.slow  # a process, which looks at the run every five seconds
def test_the_server_shows_and_changes_nothing(pages, searched, tmp_path):
    folder = shutil.copytree(searched, tmp_path / "run")
    fn.report(folder)
    before = files(folder)
    child = subprocess.Popen([sys.executable, "-m", "flashnas", "dashboard", str(folder), "--port", "0"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = child.stderr.readline()
        assert line.endswith(f" shows {folder}; Ctrl-C ends it\n")
        base = line.partition("/dashboard")[0]
        study = json.load(urllib.request.urlopen(f"{base}/api/studies/0?after=0"))
        assert [artifact["filename"] for artifact in study["artifacts"]] == ["pareto.png"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{base}/api/studies/0", method="DELETE"))
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert (child.returncode, err) == (0, "")
    assert out == f"{len(study['trials'])} trials of {folder} were shown\n"
    assert files(folder) == before
