import numpy as np
import pandas as pd
import pytest
from tiny_tables import tiny_kinds, write_table

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ConfigError, TableError
from flashnas.latency.kernel_correction import STACKS, WHOLE_MODELS, KernelCorrection
from flashnas.latency.kernel_fit import fit, main
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import write_calibration

MODELS = [f"{hidden}(vocab=64): {layers}x(a(heads=2,kv_heads=1,head_dim=16) f(intermediate={inner}))"
          for hidden, layers, inner in ((32, 1, 64), (32, 4, 64), (64, 2, 256), (64, 6, 128), (64, 3, 32))]
CONSTANTS = {"scale": 1.7, "attention_scale": 2.5, "gap_us": 5.0}


@pytest.mark.parametrize("stack", STACKS)
def test_fit_recovers_the_constants_that_made_the_times(tmp_path, stack):
    write_table(tmp_path / "t", tiny_kinds())
    constants = CONSTANTS if stack == "unfused" else {"scale": 1.7, "gap_us": 5.0}
    write_calibration(tmp_path / "t", {stack: constants, "width": 0.1})
    seconds = LatencyModel(tmp_path / "t", "generated=8", stack=stack).latencies(
        [Architecture.parse(text) for text in MODELS]) / 1000
    measured = pd.DataFrame({"model": MODELS, "workload": "generated=8", "latency_s": seconds})
    result = fit(str(tmp_path / "t"), measured, stack)
    for name, value in constants.items():
        assert getattr(result.correction, name) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(result.left_out, 0, atol=1e-9)


def test_fit_reads_prompts_and_leaves_their_time_alone(tmp_path):
    write_table(tmp_path / "t", tiny_kinds())
    write_calibration(tmp_path / "t", {"scale": 1.7, "gap_us": 5.0})
    workload = "prompt=8,generated=8"
    seconds = LatencyModel(tmp_path / "t", workload).latencies([Architecture.parse(text) for text in MODELS]) / 1000
    result = fit(str(tmp_path / "t"), pd.DataFrame({"model": MODELS, "workload": workload, "latency_s": seconds}))
    assert result.correction.scale == pytest.approx(1.7, rel=1e-6)


@pytest.mark.parametrize(("stack", "needed"), [("fused", 3), ("unfused", 4)])
def test_fit_needs_more_models_than_constants(tiny_table, stack, needed):
    few = pd.DataFrame({"model": MODELS[:needed - 1], "workload": "generated=8", "latency_s": 1.0})
    with pytest.raises(TableError, match=f"stack {stack} needs at least {needed} whole models; got {needed - 1}"):
        fit(tiny_table, few, stack)


def test_constants_of_a_stack_come_before_those_of_all(tmp_path):
    table = write_table(tmp_path / "t", tiny_kinds(), calibration={
        "gap_us": 1.0, "width": 0.2, "stack": "unfused", "unfused": {"gap_us": 3.0}})
    assert KernelCorrection.of(table.calibration, "fused") == KernelCorrection(gap_us=1.0, width=0.2)
    assert KernelCorrection.of(table.calibration, "unfused") == KernelCorrection(gap_us=3.0, width=0.2)
    assert LatencyModel(table, "generated=1").stack == "unfused"
    assert LatencyModel(table, "generated=1", stack="fused").kernel_correction.gap_us == 1.0


def test_an_unknown_stack(tmp_path, tiny_table):
    with pytest.raises(ConfigError, match="stack must be one of fused, unfused; got 'fusd'"):
        LatencyModel(tiny_table, "generated=1", stack="fusd")


@pytest.mark.parametrize("value", ["much", -1.0, True])
def test_a_calibration_that_is_no_number(tmp_path, value):
    write_table(tmp_path / "t", tiny_kinds())
    write_calibration(tmp_path / "t", {"gap_us": value})
    with pytest.raises(TableError, match=r"meta\.yaml:\d+: calibration\.gap_us must be a number of at least 0"):
        LatencyModel(tmp_path / "t", "generated=8")


def test_shipped_h100_constants_are_what_the_fit_gives(capsys):
    table = LatencyTable.load("h100_sxm")
    for stack in STACKS:
        result = fit(table, pd.read_csv(table.path / WHOLE_MODELS, comment="#"), stack)
        for key, value in result.to_dict().items():
            assert table.calibration[stack][key] == pytest.approx(value, abs=0.01), key
        assert np.abs(result.left_out).mean() < 0.04
        assert np.abs(result.left_out).max() < 0.06
    main(["h100_sxm"])
    assert "Llama-3.2-1B" in capsys.readouterr().out


def test_carried_over_constants_say_so_and_are_bounded_by_none_and_twice():
    h100 = LatencyTable.load("h100_sxm").calibration
    for name in ("h200_sxm", "a100_sxm", "l40s"):
        other = LatencyTable.load(name).calibration
        assert (other["stack"], other["width"]) == (h100["stack"], 1.0)
        for stack in STACKS:
            assert other[stack].items() <= h100[stack].items()
            assert other[stack].keys() >= {"scale", "gap_us", "batched"}
        assert "carried over" in other["fitted_on"]


@pytest.mark.parametrize("stack", STACKS)
def test_throughput_at_32k_is_ranked_within_its_bounds_and_said_to_be_off(stack):
    table = LatencyTable.load("h100_sxm")
    measured = pd.read_csv(table.path / "whole_throughput.csv", comment="#")
    model = LatencyModel(table, "throughput-32k", stack=stack)
    estimates = [model.estimate(load_architecture(name)) for name in measured["model"]]
    ratios = [estimate.throughput_tok_s / seen for estimate, seen in
              zip(estimates, measured["throughput_tok_s"], strict=True)]
    assert min(ratios) > 1.2  # nobody should read the estimate as what they will get
    assert table.calibration[stack]["batched"] == pytest.approx(max(ratios), abs=0.05)
    for estimate, seen in zip(estimates, measured["throughput_tok_s"], strict=True):
        lower, upper = estimate.bounds["throughput_tok_s"]
        assert lower < seen < upper
        assert "take throughput as a ranking" in estimate.notes[0]
    ranks = pd.DataFrame({"seen": measured["throughput_tok_s"], "told": [e.throughput_tok_s for e in estimates]})
    assert ranks.corr("spearman").iloc[0, 1] > 0.9
    assert LatencyModel(table, "decode-8k", stack=stack).estimate(load_architecture("Qwen2.5-3B")).notes == ()
