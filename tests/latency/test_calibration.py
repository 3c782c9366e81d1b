"""The calibration of a table is checked when the table is loaded: one line with file, line, rule
and value.
"""

import shutil

import pytest
import yaml
from offenders import every
from one_line import one_line

from flashnas.base.errors import TableError
from flashnas.latency.corrections import Correction, KernelCorrection, ModelCorrection
from flashnas.latency.table import LatencyTable

GOOD = {
    "stack": "unfused",
    "unfused": {"scale": 1.1, "left_out_mean_error": 0.01},
    "gap_us": 2,
    "width": 0.2,
    "fitted_on": "x",
    "reproduce": "y",
    "whole": {
        "eager": {"decode": {"scale": 1.1, "mb_us": 0}, "prefill": {}},
        "workload": "chat",
        "fitted_on": ["abc"],
    },
}
DAMAGED = [
    ("hello", "calibration must be a mapping or null; got 'hello'"),
    (
        {"gap": 1.0},
        "calibration has no key 'gap' (did you mean 'gap_us'?); allowed: scale, attention_scale,"
        " gap_us",
    ),
    ({"scale": float("nan")}, "calibration.scale must be a finite number; got nan"),
    ({"gap_us": -1.0}, "calibration.gap_us must be a number of at least 0; got -1.0"),
    (
        {"stack": "fusd"},
        "calibration.stack must be one of fused, unfused; got 'fusd' (did you mean 'fused'?)",
    ),
    ({"unfused": 3}, "calibration.unfused must be a mapping; got 3"),
    ({"unfused": {"scal": 3}}, "calibration.unfused has no key 'scal' (did you mean 'scale'?)"),
    ({"fitted_on": 3}, "calibration.fitted_on must be text; got 3"),
    ({"whole": "x"}, "calibration.whole must be a mapping; got 'x'"),
    ({"whole": {"eagre": {}}}, "calibration.whole has no key 'eagre' (did you mean 'eager'?)"),
    ({"whole": {"fitted_on": "abc"}}, "calibration.whole.fitted_on must be a list; got 'abc'"),
    (
        {"whole": {"eager": {"decod": {}}}},
        "a key of calibration.whole.eager must be one of prefill, decode; got 'decod'",
    ),
    (
        {"whole": {"eager": {"decode": {"scale": -1}}}},
        "calibration.whole.eager.decode.scale must be a number of at least 0; got -1",
    ),
    (
        {"whole": {"eager": {"decode": {"gap_us": 1}}}},
        "calibration.whole.eager.decode has no key 'gap_us'",
    ),
]


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "t")


def calibrate(folder, calibration):
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    (folder / "meta.yaml").write_text(yaml.safe_dump({**meta, "calibration": calibration}))


@every(case=DAMAGED)
def test_damage_is_one_line(folder, case):
    calibration, words = case
    calibrate(folder, calibration)
    message = one_line(TableError, LatencyTable.load, folder)
    assert words in message
    assert message.startswith(f"{folder / 'meta.yaml'}:")


def test_a_calibration_is_read_by_both_corrections(folder):
    calibrate(folder, GOOD)
    table = LatencyTable.load(folder)
    assert KernelCorrection.of(table.calibration, "unfused") == KernelCorrection(
        scale=1.1, gap_us=2.0, width=0.2
    )
    assert ModelCorrection.of(table.calibration, "eager", "decode") == ModelCorrection(scale=1.1)
    assert ModelCorrection.of(table.calibration, "cuda_graph", "decode") == ModelCorrection()
    calibrate(folder, None)
    assert LatencyTable.load(folder).calibration == {}


@pytest.mark.parametrize("mode", ["compiled", "vllm"])
def test_calibrations_of_earlier_modes_are_read(folder, mode):
    calibrate(folder, {"whole": {mode: {"decode": {"scale": 1.2}}}})
    assert ModelCorrection.of(
        LatencyTable.load(folder).calibration, mode, "decode"
    ) == ModelCorrection(scale=1.2)


@pytest.mark.parametrize("correction", Correction.__subclasses__())
def test_what_a_correction_writes_it_reads(correction):
    values = correction(**{name: 0.5 for name in correction.names()})
    assert correction.read(values.to_dict()) == values
    assert correction.read({}, {"scale": 2}).scale == 2.0
