import numpy as np
import pandas as pd
import pytest
from tiny_tables import tiny_kinds, write_table

from flashnas.architecture import Architecture
from flashnas.errors import TableError
from flashnas.latency.calibration import WHOLE_MODELS, fit, main
from flashnas.latency.model import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import write_calibration

MODELS = [f"{hidden}(vocab=64): {layers}x(a(heads=2,kv_heads=1,head_dim=16) f(intermediate={inner}))"
          for hidden, layers, inner in ((32, 1, 64), (32, 4, 64), (64, 2, 256), (64, 6, 128))]


def test_fit_recovers_the_constants_that_made_the_times(tmp_path):
    write_table(tmp_path / "t", tiny_kinds())
    write_calibration(tmp_path / "t", {"scale": 1.7, "gap_us": 5.0, "width": 0.1})
    seconds = LatencyModel(tmp_path / "t", "generated=8").latencies(
        [Architecture.parse(text) for text in MODELS]) / 1000
    result = fit(str(tmp_path / "t"), pd.DataFrame({"model": MODELS, "workload": "generated=8", "latency_s": seconds}))
    assert result.calibration.scale == pytest.approx(1.7, rel=1e-6)
    assert result.calibration.gap_us == pytest.approx(5.0, rel=1e-6)
    np.testing.assert_allclose(result.left_out, 0, atol=1e-9)


def test_fit_needs_three_models(tiny_table):
    with pytest.raises(TableError, match="at least 3 whole models; got 2"):
        fit(tiny_table, pd.DataFrame({"model": MODELS[:2], "workload": "generated=8", "latency_s": [1.0, 2.0]}))


@pytest.mark.parametrize("value", ["much", -1.0, True])
def test_a_calibration_that_is_no_number(tmp_path, value):
    write_table(tmp_path / "t", tiny_kinds())
    write_calibration(tmp_path / "t", {"gap_us": value})
    with pytest.raises(TableError, match=r"meta\.yaml: calibration\.gap_us must be a number of at least 0"):
        LatencyModel(tmp_path / "t", "generated=8")


def test_shipped_h100_constants_are_what_the_fit_gives(capsys):
    table = LatencyTable.load("h100_sxm")
    result = fit(table, pd.read_csv(table.path / WHOLE_MODELS, comment="#"))
    for key, value in result.to_dict().items():
        assert table.calibration[key] == pytest.approx(value, abs=0.01), key
    assert np.abs(result.left_out).mean() < 0.06
    assert np.abs(result.left_out).max() < 0.11
    main(["h100_sxm"])
    assert "Llama-3.2-1B" in capsys.readouterr().out


def test_carried_over_constants_say_so_and_are_bounded_by_none_and_twice():
    h100 = LatencyTable.load("h100_sxm").calibration
    for name in ("h200_sxm", "a100_sxm", "l40s"):
        other = LatencyTable.load(name).calibration
        assert (other["scale"], other["gap_us"], other["width"]) == (h100["scale"], h100["gap_us"], 1.0)
        assert "carried over" in other["fitted_on"]
