"""Records of a conversion that something has damaged, or that a stranger wrote: one line each."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from cases import cases
from one_line import one_line
from test_convert import asked, converted  # noqa: F401  (fixtures)

import flashnas as fn
from flashnas.base.errors import FlashnasError, RunError
from flashnas.conversion.choices import Choice
from flashnas.conversion.folder import weights_of
from flashnas.conversion.law import SingleScores
from flashnas.conversion.measure import LayoutScore, MeasurementLog

QUESTION = {"documents": 2, "seed": 0}
SCORE = {"kl": [0.1, 0.2], "loss": [3.0, 3.1], "recalled": [0.5], "value_lost": [0.2]}


def line(draw=0, layout="0:none", **changes):
    return {"draw": draw, "layout": layout, "measured": {**SCORE, "block_error": 0.1, **changes}}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([[1]], ":1: header must be a mapping; got [1]"),
        ([{"question": None}], ":1: header.question must be a mapping; got None"),
        ([line(), line(layout="1:none", recalled=[], value_lost=[])], ":3: kl, loss, recalled"),
        *(
            ([line(**changes)], words)
            for changes, words in cases("conversion", "damaged_measurements")
        ),
    ],
)
def test_a_damaged_line_of_measurements_is_named(lines, words, tmp_path):
    path = tmp_path / "measurements.jsonl"
    header = [] if "measured" not in lines[0] else [{"question": QUESTION}]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in [*header, *lines]))
    assert words in one_line(RunError, MeasurementLog, path, QUESTION, "float32")


@pytest.mark.usefixtures("llama_cpp_clock")
def test_damaged_times_of_llama_cpp_are_one_line(asked, tmp_path):  # noqa: F811
    (tmp_path / "times.json").write_text('{"key": {"": 0}}')
    (tmp_path / "measurements.jsonl").touch()
    call = {**asked, "runtime": "llama.cpp", "workload": "chat", "out": tmp_path}
    assert "times.json: " in one_line(RunError, fn.convert, **call)


@pytest.mark.parametrize(("place", "value", "words"), cases("conversion", "damaged_reports"))
def test_the_report_of_a_strangers_conversion_is_one_line(place, value, words, converted, tmp_path):  # noqa: F811
    path = shutil.copytree(converted[0], tmp_path / "run") / "run.yaml"
    config = yaml.safe_load(path.read_text())
    trained = {"name": "gd 5", "tokens": 5, "planned": 5, "seconds": 1.0, "flat": False}
    config["conversion"]["replacements"] = [{**trained, "curve": [[0, 1.0]]}]
    *parents, key = ["conversion", *place]
    entry = config
    for parent in parents:
        entry = entry[parent]
    entry[key] = value
    path.write_text(yaml.safe_dump(config))
    assert words in one_line(FlashnasError, fn.report, tmp_path / "run")


def test_control_characters_of_a_strangers_conversion_are_escaped(converted, tmp_path):  # noqa: F811
    path = shutil.copytree(converted[0], tmp_path / "run") / "run.yaml"
    config = yaml.safe_load(path.read_text())
    config["conversion"]["model"] = "\x1b]0;title\x07"
    path.write_text(yaml.safe_dump(config))
    fn.report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert r"\x1b]0;title\x07" in page
    assert "\x1b" not in page


def test_answers_that_take_nearly_as_long_have_weights_of_their_own(tmp_path):
    layouts = [(Choice(layer, "none", None),) for layer in (1, 2, 2)]
    conversion = SimpleNamespace(
        config=SimpleNamespace(out=tmp_path),
        milliseconds=lambda layout: 20_000 + layout[0].layer / 10,
    )
    folders = weights_of(conversion, layouts)
    assert [folders[layout].name for layout in layouts] == ["20000ms", "20000ms-2", "20000ms-2"]


@pytest.mark.filterwarnings("error")
def test_equal_values_have_no_rank_correlation():
    for changes in (1, 3):
        scores = [LayoutScore([0.1] * 4, [3.0] * 4, [], [])] * changes
        assert np.isnan(SingleScores.of([Choice(1, "none", None)] * changes, scores).agreement)
