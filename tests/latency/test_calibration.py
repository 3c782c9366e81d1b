"""The calibration of a table is checked when the table is loaded: one line with file, line, rule and value."""

import pytest
import yaml
from tiny_tables import tiny_kinds, write_table

from flashnas.base.errors import TableError
from flashnas.latency.corrections import Correction, KernelCorrection, ModelCorrection
from flashnas.latency.table import LatencyTable, shipped_tables

GOOD = {"stack": "unfused", "unfused": {"scale": 1.1, "left_out_mean_error": 0.01}, "gap_us": 2, "width": 0.2,
        "fitted_on": "x", "reproduce": "y", "whole": {"eager": {"decode": {"scale": 1.1, "mb_us": 0}, "prefill": {}},
                                                      "workload": "chat", "fitted_on": ["abc"]}}
DAMAGED = [
    ("hello", "calibration must be a mapping or null; got 'hello'"),
    (0, "calibration must be a mapping or null; got 0"),
    ([1], "calibration must be a mapping or null; got [1]"),
    ({"gap": 1.0}, "calibration has no key 'gap' (did you mean 'gap_us'?); allowed: scale, attention_scale, gap_us"),
    ({"scale": float("nan")}, "calibration.scale must be a finite number; got nan"),
    ({"scale": float("inf")}, "calibration.scale must be a finite number; got inf"),
    ({"scale": True}, "calibration.scale must be a number; got True"),
    ({"gap_us": -1.0}, "calibration.gap_us must be a number of at least 0; got -1.0"),
    ({"stack": "fusd"}, "calibration.stack must be one of fused, unfused; got 'fusd' (did you mean 'fused'?)"),
    ({"stack": ["fused"]}, "calibration.stack must be text; got ['fused']"),
    ({"unfused": 3}, "calibration.unfused must be a mapping; got 3"),
    ({"unfused": {"scal": 3}}, "calibration.unfused has no key 'scal' (did you mean 'scale'?)"),
    ({"unfused": {"scale": "3"}}, "calibration.unfused.scale must be a number; got '3'"),
    ({"fitted_on": 3}, "calibration.fitted_on must be text; got 3"),
    ({"whole": "x"}, "calibration.whole must be a mapping; got 'x'"),
    ({"whole": {"eagre": {}}}, "calibration.whole has no key 'eagre' (did you mean 'eager'?)"),
    ({"whole": {"fitted_on": "abc"}}, "calibration.whole.fitted_on must be a list; got 'abc'"),
    ({"whole": {"workload": 1}}, "calibration.whole.workload must be text; got 1"),
    ({"whole": {"eager": 1}}, "calibration.whole.eager must be a mapping; got 1"),
    ({"whole": {"eager": {"decod": {}}}},
     "a key of calibration.whole.eager must be one of prefill, decode; got 'decod'"),
    ({"whole": [1]}, "calibration.whole must be a mapping; got [1]"),
    ({"whole": {"eager": {"decode": 7}}}, "calibration.whole.eager.decode must be a mapping; got 7"),
    ({"whole": {"eager": {"decode": {"scale": -1}}}},
     "calibration.whole.eager.decode.scale must be a number of at least 0; got -1"),
    ({"whole": {"eager": {"decode": {"gap_us": 1}}}}, "calibration.whole.eager.decode has no key 'gap_us'"),
    ({"whole": {"eager": {"decode": {"scale": float("nan")}}}},
     "calibration.whole.eager.decode.scale must be a finite number; got nan"),
]


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path / "t", tiny_kinds())
    return tmp_path / "t"


def calibrate(folder, calibration):
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    (folder / "meta.yaml").write_text(yaml.safe_dump({**meta, "calibration": calibration}))


@pytest.mark.parametrize(("calibration", "words"), DAMAGED)
def test_damage_is_one_line(folder, calibration, words):
    calibrate(folder, calibration)
    with pytest.raises(TableError) as caught:
        LatencyTable.load(folder)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.startswith(f"{folder / 'meta.yaml'}:")


def test_a_calibration_is_read_by_both_corrections(folder):
    calibrate(folder, GOOD)
    table = LatencyTable.load(folder)
    assert KernelCorrection.of(table.calibration, "unfused") == KernelCorrection(scale=1.1, gap_us=2.0, width=0.2)
    assert ModelCorrection.of(table.calibration, "eager", "decode") == ModelCorrection(scale=1.1)
    assert ModelCorrection.of(table.calibration, "compiled", "decode") == ModelCorrection()
    calibrate(folder, None)
    assert LatencyTable.load(folder).calibration == {}


@pytest.mark.parametrize("correction", Correction.__subclasses__())
def test_what_a_correction_writes_it_reads(correction):
    values = correction(**{name: 0.5 for name in correction.names()})
    assert correction.read(values.to_dict()) == values
    assert correction.read({}, {"scale": 2}).scale == 2.0


@pytest.mark.parametrize("name", shipped_tables())
def test_shipped_calibrations_are_valid(name):
    assert KernelCorrection.of(LatencyTable.load(name).calibration, "unfused").scale > 1
