"""The calibration of a table is checked when the table is loaded: one line with file, line, rule
and value.
"""

import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from fit_engine import FITTED, fitted, speeds, variant_errors
from tiny_tables import write_entry

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, ConfigError, TableError
from flashnas.latency.calibration import (
    FAR,
    BoundedTime,
    Calibration,
)
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import CALIBRATIONS
from flashnas.space import load_space

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


def test_the_host_decides_a_short_step_and_hides_behind_a_long_one():
    assert Calibration(step_scale=2.0, host_us=30.0).step_us(20.0) == pytest.approx(70.0)
    hosts = Calibration(host_us=30.0, host_range_us=(10.0, 90.0), overlap=3.0)
    fastest, slowest = hosts.by_hosts(10.0)
    assert hosts.step_us(10.0) * slowest == hosts.step_us(10.0, 90.0)
    assert fastest < 0.5
    assert slowest > 2.9
    assert hosts.by_hosts(1000.0) == pytest.approx((1.0, 1.0), abs=1e-3)
    assert hosts.by_hosts(0.0) == Calibration(host_us=30.0).by_hosts(10.0) == (1.0, 1.0)
    us, width = hosts.step_us(10.0), 0.1
    lower, upper = replace(hosts, half_width=width).interval(
        "decode", us, {}, width, hosts.by_hosts(10.0)
    )
    # independent of each other: their squares add up
    assert math.log(us / lower) == pytest.approx(math.hypot(math.log(fastest), width))
    assert math.log(upper / us) == pytest.approx(math.hypot(math.log(slowest), width))
    with pytest.raises(ValueError, match="host_range_us must contain host_us"):
        Calibration(host_us=30.0, host_range_us=(40.0, 90.0))


def test_the_time_of_networks_that_the_host_hides_is_the_same():
    """118 to 862 networks at 240.04 to 240.30 ms were ranked by hundredths."""
    model = LatencyModel("h100_sxm", "batch=1,generated=256")
    tiny = [Architecture.parse(f"{hidden}(vocab=8192): 2x(a f)") for hidden in (128, 256)]
    assert len(set(model.latencies(tiny).tolist())) == 1
    assert (
        model.latencies([Architecture.parse("2048: 12x(a f)")])[0] > 1.01 * model.latencies(tiny)[0]
    )


def test_the_host_is_of_one_program_and_of_several_as_wide_as_all():
    def host(*programs, table="h100_sxm"):
        found = LatencyModel(table, "decode-1k", programs=programs).calibration
        return found.host_us, found.host_range_us, found.text

    vllm, sglang, other = host(), host("sglang"), host("llama.cpp")
    assert vllm == host("vllm")
    assert vllm[2] == "calibration engine, host of vLLM main 2026-08 offline"
    assert vllm[1][1] < sglang[0] < sglang[1][1] < other[1][1]
    both = host("vllm", "sglang")
    assert both[:2] == (vllm[0], (vllm[1][0], sglang[1][1]))
    assert both == host("sglang", "vllm")
    unknown = "was timed on this device: intervals of all programs"
    assert other[2] == (
        f"calibration engine, no llama.cpp of today {unknown}; a table of yours: flashnas profile"
        " --runtime llama.cpp"
    )
    assert host(table="a100_sxm")[2] == f"calibration engine, no vllm of today {unknown}"


def refused(workload, *budgets):
    """The message for budgets of a search."""
    costs = TableCosts(LatencyModel("h100_sxm", workload))
    with pytest.raises(BudgetError) as found:
        Fitter(load_space("served"), costs, budgets).feasible(0)
    return str(found.value)


def test_a_budget_below_the_host_says_what_hosts_take_and_one_on_memory_does_not():
    message = refused("decode-1k", Budget("tpot_ms", 0.8))
    calibration = LatencyModel("h100_sxm", "decode-1k").calibration
    host, fastest, slowest = (us / 1000 for us in (calibration.host_us, *calibration.host_range_us))
    assert re.search(r"misses tpot_ms 0\.\d+ where the budget is 0\.8, .*: \d+.*: ", message)
    assert (
        f"; {host:.2f} ms of a step are the host's ({fastest:.2f} to {slowest:.2f} ms)" in message
    )
    assert message.endswith("measure yours: flashnas profile --runtime vllm --vllm-python PATH")
    assert "host" not in refused("decode-1k", Budget("memory_gb", 0.01))


def test_a_refusal_names_the_budgets_that_admit_the_nearest_network():
    budgets = [Budget("memory_gb", 0.01), Budget("tpot_ms", 0.01), Budget("throughput_tok_s", 1e7)]
    found = re.findall(r"--budget (\w+)=([\d.]+)", message := refused("decode-1k", *budgets))
    assert [name for name, _ in found] == ["memory_gb", "tpot_ms", "throughput_tok_s"]
    assert " would admit it" in message
    admitted = [Budget(name, float(limit)) for name, limit in found]
    costs = TableCosts(LatencyModel("h100_sxm", "decode-1k"))
    assert Fitter(load_space("served"), costs, admitted).feasible(0)


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


def test_many_blocks_of_threads_fill_the_device():
    correction = Calibration(attention_slowdown=4.0, attention_filled=2.0, attention_blocks=100)
    times = [
        correction.attention(1, bytes_us=20, head_dim=128, pairs=pairs)
        for pairs in (8, 100, 200, 10**6)
    ]
    assert times == [4 * 20, 4 * 20, 3 * 20, pytest.approx(2 * 20, rel=1e-3)]


# -- intervals -------------------------------------------------------------------------------------


TEN = BoundedTime(10.0, 8.0, 13.0, "derived")
SEEN = Calibration(name="paper", half_width=0.1, step_ms=(1.0, 4.0), kinds={"gemm": 0.0})


def test_derived_rows_kinds_that_no_model_has_and_prompts_widen_it():
    def width(kernel, source="derived", phase="decode", calibration=SEEN):
        parts = {}
        if calibration.widens(phase, kernel, source):
            parts[kernel] = [TEN.us, TEN.us - TEN.lower_us, TEN.upper_us - TEN.us]
        lower, upper = calibration.interval(phase, 20.0, parts, 0.1)
        return upper - lower

    us = np.array([20.0, 1.0])
    for scale, half in ((1.0, 0.1), (2.0, 0.1), (1.0, 0.0)):
        of = Calibration(step_scale=scale, half_width=half)
        lower, upper = of.interval("decode", us, {"scan": (us, 2.0, 3.0)}, half)
        add = np.hypot if half else np.add
        assert us - lower == pytest.approx(np.minimum(us, add(-np.expm1(-half) * us, 2 * scale)))
        assert upper - us == pytest.approx(add(np.expm1(half) * us, 3 * scale))
    usual = width("gemm", "imported")
    assert usual == pytest.approx(20 * 2 * math.sinh(0.1))
    assert width("gemm") > usual
    assert width("kda_decode", "imported") > usual
    assert width("gemm", "imported", "prefill") > usual
    half = replace(SEEN, kinds={"gemm": 0.25})
    assert usual < width("gemm", calibration=half) < width("gemm")
    assert width("gemm", calibration=replace(SEEN, kinds={"gemm": 0.5})) == pytest.approx(usual)


def test_steps_far_from_those_of_the_models_widen_it():
    assert SEEN.half_width_of(2.0, 1) == SEEN.half_width_of(0.0, 1) == 0.1
    assert SEEN.half_width_of(math.exp(-1), 1) == pytest.approx(0.1 + FAR)
    assert SEEN.half_width_of(4 * math.e, 1) == pytest.approx(0.1 + FAR)
    many = replace(SEEN, batched_half_width=0.3)
    assert (many.half_width_of(2.0, 1), many.half_width_of(50.0, 2)) == (0.1, 0.3)


def test_networks_that_were_validated_set_the_interval_of_ones_own_table(folder):
    def ratio(ratios):
        table = LatencyTable.load(folder)
        entry = {"mode": table.mode, "basis": table.basis}
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
    entry = {"mode": table.mode, "basis": table.basis, **found}
    write_entry(folder, "validations", [entry])
    with pytest.raises(TableError, match=r"the entry in validations of meta\.yaml is damaged"):
        LatencyModel(folder, "generated=1")


# -- the shipped constants -------------------------------------------------------------------------


def test_tables_without_whole_models_borrow_and_are_wider():
    lender = LatencyTable.load("h100_sxm").calibration
    for name, calibrations in (("h200_sxm", CALIBRATIONS), ("a100_sxm", ["paper"])):
        for each in calibrations:
            found = LatencyModel(name, "decode-1k", calibration=each).calibration
            assert found.half_width > 1.3 * lender[each]["half_width"]
            assert found.text.startswith(f"calibration {each} borrowed from h100_sxm")
            assert found.host_us == lender[each].get("hosts", {"vllm": {"us": 0.0}})["vllm"]["us"]


@pytest.fixture(scope="module")
def published():
    return [row for table in FITTED for row in speeds(LatencyTable.load(table))]


def test_published_speeds_of_engines_lie_within_their_interval(published):
    """In the fit; each network left out in turn is the slow test."""
    inside, large = [], []
    calibrations = {name: LatencyModel(name, "decode-1k").calibration for name in FITTED}
    for row in published:
        value, lower, upper = row.predicted(calibrations[row.table])
        inside.append(lower <= row.measured_ms <= upper)
        if row.step_us > 6000:
            large.append(abs(value / row.measured_ms - 1))
    assert sum(inside) >= 0.8 * len(inside)
    assert sum(large) / len(large) < 0.1  # the host decides the error of the others


@pytest.mark.slow
def test_left_out_networks_give_the_shipped_constants():
    engine, lent, _ = fitted()
    for table in FITTED:
        assert engine[table] == LatencyTable.load(table).calibration["engine"]
    assert LatencyTable.load("l40s").calibration["engine"]["half_width"] == round(lent, 3)


def test_rows_of_one_chip_with_two_memories_justify_the_rule_for_a_variant():
    assert max(variant_errors().values()) < 0.05
