"""What a run shows while it runs: the page that follows a search, and what trackers are told."""

import os
import re

import pytest

import flashnas as fn
from flashnas.api import live
from flashnas.report import html
from flashnas.report.html import render_html
from flashnas.runs.snapshot import Snapshot
from flashnas.study import record
from flashnas.tracking import TRACKERS, Tracker

RELOADS = '<meta http-equiv="refresh" content="30">'
TOLD: list = []


class Told(Tracker):
    """Keeps what it is told."""

    def start(self, config):
        TOLD.append(("start", config["question"]["seed"]))

    def log(self, metrics, step):
        TOLD.append(("log", dict(metrics), step))

    def artifact(self, path):
        TOLD.append(("artifact", path.name))

    def finish(self, status):
        TOLD.append(("finish", status))


@pytest.fixture
def told(monkeypatch):
    TOLD.clear()
    monkeypatch.setitem(TRACKERS.shipped, "told", f"{__name__}:Told")
    return TOLD


def test_a_search_shows_itself_while_it_runs(pages, tmp_path, told, monkeypatch):
    monkeypatch.setattr(live, "PAGE_EVERY_S", 0)
    monkeypatch.setattr(live, "PAGE_SHARE", 0)
    monkeypatch.setattr(record, "QUICK_S", 60)   # no update is left out because one before took milliseconds
    page, seen = tmp_path / "run" / "report.html", []

    def evaluator(network):
        seen.append(re.findall(r"(?s)<title>.*?</title>|<meta http-equiv=.refresh.*?>", page.read_text()[:2000])
                    if page.exists() else [])
        return {"loss": 10 - network.params / 1e7}

    run = fn.search(space="tiny", table="h100_sxm", workload="chat", sampler="random", trials=4, cycle_size=2,
                    baselines=False, evaluator=evaluator, workers=1, measure=False, tracker=["told"],
                    out=tmp_path / "run")
    assert seen[0] == []
    assert seen[-1] == [RELOADS, "<title>flashnas · run</title>"]
    assert RELOADS not in page.read_text()
    assert told[0] == ("start", 0)
    logged = [call for call in told if call[0] == "log"]
    assert [(step, metrics["trial/loss"]) for _, metrics, step in logged if "trial/loss" in metrics] == [
        (row.number, row.loss) for row in run.trials.itertuples()]
    assert any(metrics.get("search/done") == 4 for _, metrics, _ in logged)
    files = [call[1] for call in told if call[0] == "artifact"]
    assert {"run.yaml", "01.yaml", "pareto.png", "report.html"} <= {*files}
    assert told[-1] == ("finish", "finished")


def test_a_page_that_cannot_be_written_ends_no_search(tmp_path, monkeypatch):
    lines = []

    class Progress:
        note, update = lines.append, lambda self, snapshot: None

    monkeypatch.setattr(live, "PAGE_EVERY_S", 0)
    shown = live.Live(Progress(), tmp_path, ())
    (tmp_path / "trials.parquet").write_text("damaged")
    for done in (1, 2):
        shown.update(Snapshot(done=done, failed=0, reused=0, infeasible=0, total=2, best_loss=None,
                              best_latency_ms=None, remaining_s=None))
    assert len(lines) == 1
    assert lines[0].startswith("report.html is not kept up to date: RunError: ")


def test_the_page_follows_a_run_also_after_the_clock_was_set_back(build_run, monkeypatch):
    monkeypatch.setattr(html, "render_html", lambda run: str(len(run.trials)))
    for count in (4, 8):
        folder = build_run(count)
        os.utime(folder / "trials.parquet", (1e9 - count,) * 2)
        if count == 4:
            shown = live.Live(None, folder, ())
        shown._follow()
        assert (folder / "report.html").read_text() == str(count)


@pytest.mark.parametrize("finished", [True, False])
def test_only_the_page_of_an_unfinished_run_loads_itself_again(build_run, finished):
    run = fn.load_run(build_run(8, finalists=finished, config={} if finished else {"finished": None}))
    assert (RELOADS in render_html(run)) is not finished


@pytest.mark.slow  # six seconds, most of them to import and compile what trains
def test_a_training_tells_its_steps(tmp_path, told, small_corpus, quick_recipe):
    found = fn.train("32(vocab=300): d(head_dim=16) f", recipe=str(quick_recipe), data=str(small_corpus),
                     tokens=512, tracker=["told"], out=tmp_path / "training")
    steps = [call for call in told if call[0] == "log"]
    assert [step for _, _, step in steps] == [1, 2, 3, 4]
    assert steps[-1][1]["train/validation_loss"] == pytest.approx(found.loss)
    assert told[-3:] == [("artifact", "train.yaml"), ("artifact", "log.csv"), ("finish", "finished")]
