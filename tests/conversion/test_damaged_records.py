"""Records of a conversion that something has damaged, or that a stranger wrote: one line each."""

import json
from types import SimpleNamespace

import pytest
from cases import cases
from one_line import one_line
from test_convert import asked, converted  # noqa: F401  (fixtures)

from flashnas.base.errors import RunError
from flashnas.conversion.choices import Choice
from flashnas.conversion.folder import weights_of
from flashnas.conversion.measure import MeasurementLog
from flashnas.training.teacher_text import TextScore

QUESTION = {"documents": 2, "seed": 0}
SCORE = {"kl": [0.1, 0.2], "loss": [3.0, 3.1], "recalled": [0.5], "value_lost": [0.2]}


def line(draw=0, layout="0:none", **changes):
    return {"draw": draw, "layout": layout, "measured": {**SCORE, **changes}}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([[1]], ":1: header must be a mapping; got [1]"),
        ([line(), {"draw": 0, "layout": 5}], ":3: "),
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


def test_a_folder_goes_on_in_its_type_and_on_its_device_only(tmp_path):
    path, question = tmp_path / "measurements.jsonl", {**QUESTION, "device": "cpu"}
    MeasurementLog(path, question, "bfloat16").add(0, "0:none", TextScore(**SCORE))
    assert MeasurementLog(path, question, "float32").dtype == "bfloat16"
    line = one_line(RunError, MeasurementLog, path, {**question, "device": "cuda"}, "bfloat16")
    assert "device was 'cpu', and is 'cuda'; choose another --out" in line


@pytest.mark.parametrize(("unit", "name"), [(20_000, "20000ms"), (0.25, "0.25ms")])
def test_answers_have_weights_of_their_own_however_long_they_take(unit, name, tmp_path):
    layouts = [(Choice(layer, "none", None),) for layer in (1, 2, 2, 9)]
    conversion = SimpleNamespace(
        config=SimpleNamespace(out=tmp_path),
        milliseconds=lambda layout: unit * (1 + (layout[0].layer + 0.5) // 3 / 10 + 1e-7),
    )
    folders = weights_of(conversion, layouts)
    assert [folders[layout].name for layout in layouts[:3]] == [name, f"{name}-2", f"{name}-2"]
    assert folders[layouts[3]].name not in (name, f"{name}-2")
