"""report.html, pareto.png and the table of the terminal."""

from __future__ import annotations

import dataclasses
import re
import warnings

import pytest
import yaml
from fake_plugins import write_plugin
from golden import check_golden, text_of_page
from matplotlib.image import imread
from one_line import one_line
from run_builder import THIN_RUNS, make_trials

from flashnas.base.errors import PluginError, RunError
from flashnas.base.registry import forget_plugins
from flashnas.base.text import duration, number, parameters
from flashnas.reporting.page import SECTIONS, render_html, write_report
from flashnas.reporting.table import front_table
from flashnas.run_folder.recorded_run import RecordedRun

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(run_folder):
    html_path, png_path = write_report(run_folder)
    assert html_path == run_folder / "report.html"
    assert png_path == run_folder / "pareto.png"
    return html_path.read_text(encoding="utf-8")


def test_the_page_runs_nothing_and_asks_for_nothing_from_outside(page):
    assert "<script" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|<link|<iframe|@import", page)
    assert not re.search(r"\bsrc=|href=\"(?!#)|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert "form-action 'none'" in page


def test_the_page_holds_all_figures_finalists_and_failures(page):
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
    data["notation"], data["origin"]["label"], data["sources"] = ATTACK, ATTACK, {ATTACK: 1.0}
    data["operators_ms"] = {ATTACK: {ATTACK: 5.0}}
    path.write_text(yaml.safe_dump(data))
    own = render_html(RecordedRun.load(folder))
    assert "<script>alert" not in own
    assert "<img" not in own
    assert "&lt;script&gt;alert" in own
    assert own.count("<svg ") == 8


def test_the_picture_has_its_size_and_is_not_blank(page, run_folder):
    picture = imread(run_folder / "pareto.png")
    height, width, _ = picture.shape
    assert width == 1500
    assert 700 < height < 900
    assert picture[..., :3].std() > 0.05
    assert 20_000 < (run_folder / "pareto.png").stat().st_size < 500_000


def test_no_control_character_of_a_name_reaches_the_terminal(build_run, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_report(
            build_run(
                2,
                config={
                    "table": {"name": "a", "device": "h100\x1b[31m"},
                    "workload": {"name": "chat\x07"},
                },
            )
        )
    said = "".join((*(str(warning.message) for warning in caught), *capfd.readouterr()))
    assert not set(said) & {"\x1b", "\x07"}, said


@pytest.mark.parametrize("case", THIN_RUNS)
def test_a_thin_run_gets_its_report(build_run, case):
    html_path, png_path = write_report(build_run(**THIN_RUNS[case]))
    own = html_path.read_text()
    assert "None" not in own
    assert png_path.stat().st_size > 5_000


def test_a_report_of_failures_alone_says_so(build_run):
    trials = [
        dataclasses.replace(trial, state="failed", loss=None, reason="width & factor", curve=[])
        for trial in make_trials(3)
    ]
    own = render_html(RecordedRun.load(build_run(trials=trials)))
    assert "No network was trained to the end" in own
    assert "3 of 3 trainings failed, most often: width &amp; factor." in own


def test_entries_of_run_yaml_of_another_type_do_not_break_the_page(build_run):
    """Of those that reading the run does not refuse."""
    run = RecordedRun.load(build_run(6))
    strange = dataclasses.replace(
        run,
        config={
            **run.config,
            "command": ["a"],
            "objectives": 7,
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
    assert "<footer>" in render_html(strange)
    assert front_table(strange)


PLUGIN = """
from markupsafe import Markup
from flashnas.reporting.page import Section

def html(run):
    if run.name == "broken":
        raise ValueError("no power meter")
    return "<b>plain text</b>" if run.name == "plain" else Markup("<p>%s joules</p>") % "<5>"

SECTION = Section("Energy & more", html, "energy.png", lambda run: b"a picture")
"""


def test_another_package_adds_a_section_and_its_picture(build_run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(
        write_plugin(
            tmp_path / "plugin",
            "flashnas-energy",
            {SECTIONS.group: {"energy": "energies:SECTION"}},
            {"energies.py": PLUGIN},
        )
    )
    monkeypatch.setattr(SECTIONS, "shipped", {})
    forget_plugins()
    try:
        folder = build_run(4)
        own = write_report(folder)[0].read_text()
        assert "<h2>Energy &amp; more</h2>\n<p>&lt;5&gt; joules</p>" in own
        assert (folder / "energy.png").read_bytes() == b"a picture"
        plain = render_html(dataclasses.replace(RecordedRun.load(folder), config={"name": "plain"}))
        assert "&lt;b&gt;plain text&lt;/b&gt;" in plain
        with pytest.raises(
            PluginError, match=r"report section energies:html raised ValueError: no power"
        ):
            render_html(dataclasses.replace(RecordedRun.load(folder), config={"name": "broken"}))
    finally:
        monkeypatch.undo()
        forget_plugins()


def test_a_folder_that_cannot_be_written_gives_one_line(build_run):
    folder = build_run(1)
    (folder / "report.html").mkdir()
    assert "demo: the report cannot be written: " in one_line(RunError, write_report, folder)
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_numbers_as_text():
    assert number(None) == number(float("nan")) == parameters(None) == duration(None) == "–"  # noqa: RUF001
    assert number(13221.4, 5, "ms") == "13,221 ms"
    assert number(4.8923) == "4.892"
    assert parameters(964_000_000) == "0.964 B"
    assert parameters(900_000) == "0.9 M"
    assert [duration(s, 1) for s in (8.24, 59.96, 641.3)] == ["8.2 s", "1 min 00 s", "10 min 41 s"]
    assert [duration(s) for s in (5, 3900)] == ["5 s", "1 h 05 min"]
