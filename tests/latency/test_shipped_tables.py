"""The four shipped tables: complete, small, sourced, and plausible against what was measured on
whole models.
"""

import pandas as pd
import pytest

from flashnas.api.tables import table_info
from flashnas.architecture.source import presets
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_info import facts_of
from flashnas.latency.workload import WORKLOADS
from flashnas.space import load_space

DEVICES = ("h100_sxm", "h200_sxm", "a100_sxm", "l40s")


@pytest.fixture(scope="module")
def tables():
    return {name: LatencyTable.load(name) for name in DEVICES}


@pytest.mark.parametrize("device", DEVICES)
def test_every_row_names_its_source(tables, device):
    table = tables[device]
    assert "aiconfigurator-core 0.12.0" in table.device.cite
    for kind, entry in facts_of(table)["kinds"].items():
        assert entry["sources"] == {"imported": entry["rows"]}, kind
        assert entry["origin"]["version"] == "0.12.0"
        assert entry["origin"]["licence"] == "Apache-2.0"
        for stack in entry["stacks"]:
            assert {"framework", "version", "measured_on"} <= set(table.meta["stacks"][stack])
    assert "rules answer, with wider bounds" in str(table_info(str(table.path)))


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("device", DEVICES)
def test_all_presets_and_workloads_are_answered(tables, device, workload):
    model = LatencyModel(tables[device], workload)
    for architecture in presets().values():
        estimate = model.estimate(architecture)
        assert 0 < estimate.lower_ms < estimate.latency_ms < estimate.upper_ms
        assert sum(estimate.sources.values()) == pytest.approx(1)
        assert estimate.batch >= 1
        assert (
            estimate.memory_gb
            < (1 if estimate.batch == 1 else 0.9) * tables[device].device.memory_bytes / 1e9
        )


@pytest.mark.parametrize("space", ["nemotron_flash", "layerwise"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_shipped_spaces_are_answered_in_full(tables, device, space):
    space = load_space(space)
    model = LatencyModel(tables[device], "decode-8k")
    for hidden in (
        space.hidden_sizes[0],
        space.hidden_sizes[-1],
    ):  # a grid answers for what is between
        assert model.estimate(space.build(space.kinds(), hidden)).latency_ms > 0


def test_whole_models_lie_within_the_bounds_and_in_order(tables):
    table = tables["h100_sxm"]
    measured = pd.read_csv(table.path / "whole_models.csv", comment="#").sort_values("latency_s")
    model = LatencyModel(table, "decode-8k", calibration="paper")
    estimates = [model.estimate(presets()[name]) for name in measured["model"]]
    for estimate, seconds in zip(estimates, measured["latency_s"], strict=True):
        assert estimate.lower_ms < 1000 * seconds < estimate.upper_ms
        assert estimate.latency_ms == pytest.approx(1000 * seconds, rel=0.04)
    assert [e.latency_ms for e in estimates] == sorted(e.latency_ms for e in estimates)


def test_throughput_at_32k_is_met_within_its_interval(tables):
    """The one bound of attention holds for grouped and other heads, for one sequence and for
    many.
    """
    table = tables["h100_sxm"]
    measured = pd.read_csv(table.path / "whole_throughput.csv", comment="#")
    model = LatencyModel(table, "throughput-32k", calibration="paper")
    estimates = [model.estimate(presets()[name]) for name in measured["model"]]
    for estimate, seen in zip(estimates, measured["throughput_tok_s"], strict=True):
        assert estimate.throughput_tok_s == pytest.approx(seen, rel=0.13)
        lower, upper = estimate.bounds["throughput_tok_s"]
        assert lower < seen < upper
        assert "take throughput as a ranking" in estimate.notes[0]
    told = pd.Series([estimate.throughput_tok_s for estimate in estimates])
    assert told.corr(measured["throughput_tok_s"], "spearman") > 0.95
