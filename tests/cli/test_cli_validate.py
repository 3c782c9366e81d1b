import json
import shlex

import pytest
import torch

from flashnas.cli.main import main
from flashnas.latency.table import LatencyTable
from flashnas.profiling.platforms import Cpu
from flashnas.profiling.target import Timings
from flashnas.profiling.torch_target import Torch


def fixed_times(self, network, batch, prompts, steps):
    """One microsecond for a thousand parameters."""
    ms = network.params / 1e6
    return Timings([ms] * len(prompts), [ms] * len(steps))


@pytest.fixture
def fixed(monkeypatch):
    monkeypatch.setattr(Torch, "times", fixed_times)


def command(table, *more):
    return [*shlex.split(f"validate --table {table} --space tiny --workload chat"), *more]


def test_the_text_and_the_json_tell_the_same_and_residuals_are_kept(
    copied_tiny_table, fixed, capsys
):
    assert main(command(copied_tiny_table, "-n", "3", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["architectures"]) == 3
    for entry in report["architectures"]:
        assert entry["measured"]["latency_ms"] == pytest.approx(
            entry["measured"]["ttft_ms"] + 256 * entry["measured"]["tpot_ms"]
        )
        assert entry["error"]["tpot_ms"] == pytest.approx(
            entry["predicted"]["tpot_ms"] / entry["measured"]["tpot_ms"] - 1
        )
    (kept,) = LatencyTable.load(copied_tiny_table).meta["validations"]
    assert {len(metric["log_ratios"]) for metric in kept["metrics"].values()} == {3}
    assert main(command(copied_tiny_table, "-n", "3")) == 0
    out, err = capsys.readouterr()
    assert "rank correlation" in out
    assert "[9/9] models timed" in err, "progress goes to stderr"


def test_another_device_or_stack_is_refused_(copied_tiny_table, fixed, refused, monkeypatch):
    monkeypatch.setattr(Cpu, "label", lambda self: "Other CPU")
    assert "but this is Other CPU" in refused(command(copied_tiny_table, "-n", "2"))
    monkeypatch.undo()
    monkeypatch.setattr(Torch, "times", fixed_times)
    monkeypatch.setattr(torch, "__version__", "1.0")
    said = "but this machine runs torch-1.0-1t"
    assert said in refused(command(copied_tiny_table, "-n", "2"))
