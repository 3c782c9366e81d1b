"""What a run shows while it runs: the page that follows a search, and what a progress object is
told.
"""

import os
import re

import pytest
from notes import Notes

import flashnas as fn
from flashnas.api.calling import Quiet
from flashnas.reporting import live_page as report_page
from flashnas.reporting.live_page import LivePage
from flashnas.reporting.page import render_html
from flashnas.study import evaluations
from flashnas.study.progress import Snapshot

RELOADS = '<meta http-equiv="refresh" content="30">'


def test_a_search_shows_itself_while_it_runs(pages, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "PAGE_EVERY_S", 0)
    monkeypatch.setattr(report_page, "PAGE_SHARE", 0)
    # no update is left out because one before took milliseconds
    monkeypatch.setattr(evaluations, "QUICK_S", 60)
    page, seen, progress = tmp_path / "run" / "report.html", [], Notes()

    def evaluator(network):
        seen.append(
            re.findall(
                r"(?s)<title>.*?</title>|<meta http-equiv=.refresh.*?>", page.read_text()[:2000]
            )
            if page.exists()
            else []
        )
        return {"loss": 10 - network.params / 1e7}

    run = fn.search(
        space="tiny",
        table="h100_sxm",
        workload="chat",
        sampler="random",
        trials=4,
        cycle_size=2,
        baselines=False,
        evaluator=evaluator,
        workers=1,
        measure=False,
        progress=progress,
        out=tmp_path / "run",
    )
    assert seen[0] == []
    assert seen[-1] == [RELOADS, "<title>flashnas · run</title>"]
    assert RELOADS not in page.read_text()
    assert progress.last.done == len(run.trials) == 4
    done = [snapshot.done for snapshot in progress.snapshots]
    assert done == sorted(done)


def test_a_page_that_cannot_be_written_ends_no_search(tmp_path, monkeypatch):
    progress = Notes()
    monkeypatch.setattr(report_page, "PAGE_EVERY_S", 0)
    shown = LivePage(progress, tmp_path)
    (tmp_path / "trials.parquet").write_text("damaged")
    for done in (1, 2):
        shown.update(
            Snapshot(
                done=done,
                failed=0,
                reused=0,
                infeasible=0,
                total=2,
                best_loss=None,
                best_latency_ms=None,
                remaining_s=None,
            )
        )
    (line,) = progress.lines
    assert line.startswith("report.html is not kept up to date: RunError: ")


def test_the_page_follows_a_run_also_after_the_clock_was_set_back(build_run, monkeypatch):
    monkeypatch.setattr(report_page, "render_html", lambda run: str(len(run.trials)))
    for count in (4, 8):
        folder = build_run(count)
        os.utime(folder / "trials.parquet", (1e9 - count,) * 2)
        if count == 4:
            shown = LivePage(Quiet(), folder)
        shown._follow()
        assert (folder / "report.html").read_text() == str(count)


@pytest.mark.parametrize("finished", [True, False])
def test_only_the_page_of_an_unfinished_run_loads_itself_again(build_run, finished):
    run = fn.load_run(
        build_run(2, front=None if finished else [], config={} if finished else {"finished": None})
    )
    assert (RELOADS in render_html(run)) is not finished
