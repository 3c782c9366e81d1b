"""The calibration of a table is checked when the table is loaded: one line with file, line, rule
and value.
"""

import math
import shutil
from dataclasses import replace

import pytest
import yaml
from fit_engine import FITTED, engine_of, left_out, speeds, variant_errors
from offenders import every
from tiny_tables import write_entry

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, TableError
from flashnas.latency.calibration import (
    FAR,
    BoundedTime,
    Calibration,
)
from flashnas.latency.fitting import TableCosts
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import CALIBRATIONS

STEP = "prompt=4,generated=3"
SMALL = Architecture.parse("32(vocab=64): a(heads=2,kv_heads=1,head_dim=16) f(intermediate=64)")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "t")


def calibrate(folder, calibration):
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    (folder / "meta.yaml").write_text(yaml.safe_dump({**meta, "calibration": calibration}))


def test_a_table_without_constants_answers_by_its_rows_and_says_so(tiny_table):
    by_name = [LatencyModel(tiny_table, STEP, calibration=name) for name in CALIBRATIONS]
    rows = LatencyModel(tiny_table, STEP, calibration=Calibration())
    assert {model.estimate(SMALL).latency_ms for model in by_name} == {
        rows.estimate(SMALL).latency_ms
    }
    assert by_name[0].calibration.text == "by its rows alone"
    assert by_name[0].estimate(SMALL).calibration == "own"
    with pytest.raises(ConfigError, match="calibration must be one of engine, paper; got 'vllm'"):
        LatencyModel(tiny_table, STEP, calibration="vllm")


def test_the_host_hides_behind_the_device_as_far_as_they_overlap():
    one_after_the_other = Calibration(step_scale=2.0, host_us=30.0)
    assert one_after_the_other.step_us(20.0) == pytest.approx(70.0)
    together = Calibration(step_scale=2.0, host_us=30.0, overlap=2.0)
    assert together.step_us(20.0) == pytest.approx(50.0)
    assert together.step_us(0.0) == 0.0
    assert Calibration().step_us(20.0) == 20.0


def test_a_budget_that_the_host_alone_exceeds_says_so():
    limits = [
        TableCosts(LatencyModel("h100_sxm", "chat", calibration=name)).limits()
        for name in CALIBRATIONS
    ]
    words = "; under calibration engine no step takes less than 1.55 ms, which the host needs"
    assert limits == [words, ""]


def test_what_the_engine_adds_is_a_part_of_its_own(folder):
    engine = {"step_scale": 1.1, "host_us": 100, "overlap": 2.0, "half_width": 0.1}
    calibrate(folder, {"engine": engine})
    bare, model = LatencyModel(folder, STEP, calibration=Calibration()), LatencyModel(folder, STEP)
    rows, estimate = bare.estimate(SMALL), model.estimate(SMALL)
    assert estimate.tpot_ms == pytest.approx(math.hypot(1.1 * rows.tpot_ms, 0.1))
    assert estimate.ttft_ms == pytest.approx(math.hypot(1.1 * rows.ttft_ms, 0.1))
    assert estimate.latency_ms == pytest.approx(sum(e["ms"] for e in estimate.breakdown))
    assert model.latencies([SMALL])[0] == pytest.approx(estimate.latency_ms)
    added = [entry for entry in estimate.breakdown if entry["operator"] == "engine"]
    assert [entry["phase"] for entry in added] == ["prefill", "decode"]
    assert (estimate.calibration, estimate.interval) == ("engine", 0.9)


# -- intervals -------------------------------------------------------------------------------------


TEN = BoundedTime(10.0, 8.0, 13.0, "derived")
SEEN = Calibration(name="paper", half_width=0.1, step_ms=(1.0, 4.0), kinds={"gemm": 0.0})


@every(us=(10.0, 1000.0), width=(0.0, 0.1, 0.5), source=("measured", "derived", "roofline"))
def test_an_interval_contains_its_time(us, width, source):
    times = [("decode", kernel, replace(TEN, source=source)) for kernel in ("gemm", "kda_decode")]
    for calibration in (SEEN, Calibration()):
        lower, upper = calibration.interval(times, "decode", us, width)
        assert 0 <= lower < us < upper or (source != "derived" and not width)


def test_derived_rows_kinds_that_no_model_has_and_prompts_widen_it():
    def width(kernel, source="derived", phase="decode", calibration=SEEN):
        times = [(phase, kernel, replace(TEN, source=source))]
        lower, upper = calibration.interval(times, phase, 20.0, 0.1)
        return upper - lower

    usual = width("gemm", "imported")
    assert usual == pytest.approx(20 * 2 * math.sinh(0.1))
    assert width("gemm") > usual
    assert width("kda_decode", "imported") > usual
    assert width("gemm", "imported", "prefill") > usual
    half = replace(SEEN, kinds={"gemm": 0.25})
    assert usual < width("gemm", calibration=half) < width("gemm")
    assert width("gemm", calibration=replace(SEEN, kinds={"gemm": 0.5})) == usual


def test_steps_far_from_those_of_the_models_widen_it():
    assert SEEN.half_width_of(2.0, 1) == SEEN.half_width_of(0.0, 1) == 0.1
    assert SEEN.half_width_of(math.exp(-1), 1) == pytest.approx(0.1 + FAR)
    assert SEEN.half_width_of(4 * math.e, 1) == pytest.approx(0.1 + FAR)
    many = replace(SEEN, batched_half_width=0.3)
    assert (many.half_width_of(2.0, 1), many.half_width_of(50.0, 2)) == (0.1, 0.3)


def test_networks_that_were_validated_set_the_interval_of_ones_own_table(folder):
    def ratio(ratios):
        table = LatencyTable.load(folder)
        entry = {"mode": table.default_mode, "basis": table.basis}
        entry["metrics"] = {"latency_ms": {"log_ratios": ratios}}
        write_entry(folder, "validations", [entry])
        estimate = LatencyModel(folder, "generated=1").estimate(SMALL)
        return estimate.upper_ms / estimate.latency_ms

    rows = ratio([0.01] * 8)  # too few for nine of ten
    assert ratio([0.01, *[-0.7] * 9]) > math.exp(0.69)
    assert math.exp(0.01) < ratio([-0.01] * 9) < rows


@pytest.mark.parametrize("found", [{}, {"metrics": {"latency_ms": {"log_ratios": ["x"]}}}])
def test_a_damaged_validation_is_one_line(folder, found):
    table = LatencyTable.load(folder)
    entry = {"mode": table.default_mode, "basis": table.basis, **found}
    write_entry(folder, "validations", [entry])
    with pytest.raises(TableError, match=r"the entry in validations of meta\.yaml is damaged"):
        LatencyModel(folder, "generated=1")


# -- the shipped constants -------------------------------------------------------------------------


def test_tables_without_whole_models_borrow_and_are_wider():
    lender = LatencyTable.load("h100_sxm").calibration
    for name, calibrations in (("h200_sxm", CALIBRATIONS), ("a100_sxm", ["paper"])):
        for each in calibrations:
            found = LatencyModel(name, "decode-1k", calibration=each).calibration
            assert found.half_width > 2 * lender[each]["half_width"]
            assert found.text == f"calibration {each} borrowed from h100_sxm"
            assert found.host_us == lender[each].get("host_us", 0.0)


def test_published_speeds_of_engines_lie_within_their_interval():
    """In the fit; each model left out in turn is the slow test."""
    inside, errors = [], []
    for table in ("h100_sxm", "a100_sxm"):
        calibration = LatencyModel(table, "decode-1k").calibration
        for row in speeds(LatencyTable.load(table)):
            error = row.log_error(calibration)
            errors.append(abs(math.expm1(error)))
            inside.append(abs(error) < calibration.half_width)
    assert sum(inside) >= 0.9 * len(inside)
    assert sum(errors) / len(errors) < 0.1
    assert max(errors) < 0.25


@pytest.mark.slow
def test_left_out_models_are_covered_as_published():
    inside = []
    for table in FITTED:
        rows, entry = speeds(LatencyTable.load(table)), LatencyTable.load(table).calibration
        found = engine_of(rows, left_out(rows))
        assert found == entry["engine"]
        inside += list(abs(left_out(rows)) < found["half_width"])
    assert (sum(inside), len(inside)) == (52, 57)


def test_rows_of_one_chip_with_two_memories_justify_the_rule_for_a_variant():
    assert max(variant_errors().values()) < 0.05
