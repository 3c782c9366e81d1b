"""report.html, pareto.png and the table of the terminal."""

from __future__ import annotations

import base64
import dataclasses
import re
import warnings

import pandas as pd
import pytest
import yaml
from golden import check_golden, text_of_page
from matplotlib.image import imread
from offenders import every
from one_line import one_line
from run_builder import THIN_RUNS, make_trials

from flashnas.base.errors import RunError
from flashnas.reporting import plot
from flashnas.reporting.page import render_html, write_report
from flashnas.reporting.table import front_table
from flashnas.run_folder.recorded_run import RecordedRun

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    """Of few pixels, but for those of `page`."""
    monkeypatch.setattr(plot, "DPI", 50)


@pytest.fixture(scope="module")
def page(run_folder):
    html_path, png_path = write_report(RecordedRun.load(run_folder))
    assert html_path == run_folder / "report.html"
    assert png_path == run_folder / "pareto.png"
    return html_path.read_text(encoding="utf-8")


def test_the_page_runs_nothing_and_asks_for_nothing_from_outside(page):
    assert "<script" not in page
    assert not re.search(r"https?://|//cdn|<link|<iframe|@import|<svg", page)
    assert not re.search(r"\bsrc=\"(?!data:image/png;base64,)|href=|url\(", page)
    assert "default-src 'none'; img-src data:;" in page
    assert "form-action 'none'" in page


def test_the_page_holds_the_front_what_failed_and_how_it_was_made(page):
    check_golden("page_plain.txt", text_of_page(page))


def test_text_of_a_run_cannot_become_markup(build_run):
    folder = build_run(
        12,
        reason=ATTACK,
        config={
            "name": ATTACK,
            "command": ATTACK,
            "sampler": ATTACK,
            "budgets": {"latency_ms": 14000.0, ATTACK: 1.0},
            "workload": {"name": ATTACK},
            "host": {ATTACK: ATTACK},
        },
    )
    path = folder / "pareto" / "01.yaml"
    data = yaml.safe_load(path.read_text())
    data["notation"], data["label"], data["sources"] = ATTACK, ATTACK, {ATTACK: 1.0}
    data["operators_ms"] = {ATTACK: {ATTACK: 5.0}}
    path.write_text(yaml.safe_dump(data))
    own = render_html(RecordedRun.load(folder))
    assert "<script>alert" not in own
    assert "<img src=x" not in own
    assert "&lt;script&gt;alert" in own
    assert own.count("<img ") == 2


def test_the_plot_beside_the_page_is_the_one_in_it(page, run_folder):
    png = run_folder / "pareto.png"
    picture = imread(png)
    assert picture.shape[1] == 1140
    assert picture[..., :3].std() > 0.05
    assert base64.b64encode(png.read_bytes()).decode() in page
    assert 20_000 < png.stat().st_size < 500_000


def test_no_control_character_of_a_name_reaches_the_terminal(build_run, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_report(
            RecordedRun.load(
                build_run(
                    2,
                    config={
                        "table": {"name": "a", "device": "h100\x1b[31m"},
                        "workload": {"name": "chat\x07"},
                    },
                )
            )
        )
    said = "".join((*(str(warning.message) for warning in caught), *capfd.readouterr()))
    assert not set(said) & {"\x1b", "\x07"}, said


@pytest.mark.parametrize("case", THIN_RUNS)
def test_a_thin_run_gets_its_report(build_run, case):
    html_path, png_path = write_report(RecordedRun.load(build_run(**THIN_RUNS[case])))
    own = html_path.read_text()
    assert "None" not in own
    assert png_path.stat().st_size > 5_000


@pytest.mark.parametrize(
    "change",
    [
        {"latency_ms": 1e-320},
        {"curve": [(1.0, 2.0), (2.0, float("nan"))]},
        {"curve": [(1.0, 2.0), (2.0, 1e308)]},
    ],
    ids=str,
)
def test_numbers_of_strangers_that_cannot_be_drawn_are_left_out(build_run, change):
    trials = [dataclasses.replace(trial, **change) for trial in make_trials(6)]
    run = RecordedRun.load(build_run(trials=trials))
    assert "</footer>" in render_html(run)
    answered = dataclasses.replace(
        run, front=tuple(dataclasses.replace(e, full_loss_difference=1e308) for e in run.front)
    )
    assert "</footer>" in render_html(answered)


CONTRADICTIONS = {  # of trials.parquet to the front
    "all failed": {"state": "failed"},
    "no latency": {"latency_ms": float("nan")},
    "no loss": {"loss": float("nan")},
    "other networks": {"hash": "0123456789abcdef"},
    "a huge loss": {"loss": 9e17},
}


@every(case=CONTRADICTIONS)
def test_trials_that_contradict_the_front_get_their_report(case, build_run):
    run = build_run(8)
    trials = pd.read_parquet(run / "trials.parquet")
    trials.assign(**CONTRADICTIONS[case]).to_parquet(run / "trials.parquet")
    html, png = write_report(RecordedRun.load(run))
    assert "P1" in html.read_text()
    assert png.stat().st_size > 1000


def test_entries_of_run_yaml_of_another_type_do_not_break_the_page(build_run):
    """Of those that reading the run does not refuse."""
    run = RecordedRun.load(build_run(6))
    strange = dataclasses.replace(
        run,
        config={
            **run.config,
            "command": ["a"],
            "objectives": ["x"],
            "finished": 3,
            "options": {"seed": {}, "trials": "3", "budgets": {"latency_ms": 14000.0}},
            "totals": {"tokens": float("nan")},
            "start_from": {"runs": 5},
            "table": {"device": 4, "stack": [1]},
            "workload": {"name": 5, "batch": "x"},
            "space": {"name": [1]},
            "sampler": {},
            "recipe": {"tokens": "x", "width_factor": []},
            "corpus": {"source": 5},
        },
    )
    assert "</footer>" in render_html(strange)
    assert front_table(strange)


def test_a_folder_that_cannot_be_written_gives_one_line(build_run):
    folder = build_run(1)
    (folder / "report.html").mkdir()
    assert "demo: the report cannot be written: " in one_line(
        RunError, write_report, RecordedRun.load(folder)
    )
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]
