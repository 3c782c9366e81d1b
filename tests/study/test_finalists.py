"""The networks of the front, timed where the table's device is at hand."""

import json

import pytest
import yaml
from config_keys import with_keys

import flashnas as fn
from flashnas.cli.main import main
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import load_workload
from flashnas.profiling import platforms, timing
from flashnas.space import load_space

CHAT, TINY = load_workload("chat"), load_space("tiny")


def as_measured(model, architecture, factor):
    estimate = model.estimate(architecture)
    return {name: factor * estimate.metric(name) for name in ("ttft_ms", "tpot_ms", "latency_ms")}


@pytest.fixture
def timed(monkeypatch):
    """Finalists take 0.95 times the prediction, or what the test sets; counts what was timed."""
    state = {"factor": 0.95, "timed": []}

    def measure(architectures, model, job, note):
        state["timed"] += [a.hash for a in architectures]
        return {
            a.hash: {**as_measured(model, a, state["factor"]), "throughput_tok_s": 1.0}
            for a in architectures
        }

    monkeypatch.setattr("flashnas.profiling.table_target.measure_finalists", measure)
    return state


@pytest.fixture
def command(profiled_tiny_table, small_corpus, quick_recipe, tmp_path):
    model = LatencyModel(LatencyTable.load(profiled_tiny_table), CHAT)
    budget_ms = model.estimate(TINY.build(TINY.pure_models()[0][1][:6], 96)).latency_ms

    def build(*more, **keys):
        asked = (
            f"search --space tiny --table {profiled_tiny_table} --workload chat --budget-ms"
            f" {budget_ms} --recipe {quick_recipe} --data {small_corpus} --trials 3 --workers 1"
            f" --out {tmp_path / 'run'}"
        )
        keys = with_keys(tmp_path, baselines=False, evidence="none", **keys)
        return [*asked.split(), *keys, *more]

    return build


@pytest.mark.slow
def test_the_report_shows_predicted_and_measured(pages, command, timed, tmp_path, capsys):
    assert main(command("--json")) == 0
    for entry in json.loads(capsys.readouterr().out)["front"]:
        assert entry["measured_ms"] == pytest.approx(0.95 * entry["latency_ms"])
        assert entry["missed"] == []
    page = (tmp_path / "run" / "report.html").read_text()
    assert "over the budget as measured" not in page
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "measured" in capsys.readouterr().out.splitlines()[0]


def test_a_miss_is_shown_as_one(command, timed, tmp_path, capsys):
    timed["factor"] = 1e3  # over the budget, however the table of this machine splits its time
    assert main(command()) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "over the budget as measured: P1 (latency_ms)" in out
    assert " is recommended by its predicted times" in out
    assert yaml.safe_load((tmp_path / "run" / "pareto" / "01.yaml").read_text())["missed"] == [
        "latency_ms"
    ]
    page = fn.load_run(tmp_path / "run").report(tmp_path / "page.html")
    assert "over the budget as measured: P1 (latency_ms)" in page.read_text()


def test_finalists_are_whole_models_timed_on_this_machine(command, capsys, monkeypatch):
    monkeypatch.setattr(timing, "MOST", timing.LEAST)
    assert main(command("--json")) == 0
    for entry in json.loads(capsys.readouterr().out)["front"]:
        assert entry["measured_ms"] == pytest.approx(
            entry["measured_ttft_ms"] + 256 * entry["measured_tpot_ms"]
        )
        assert entry["measured_tpot_ms"] > 0


def test_nothing_is_timed_where_the_device_is_not_at_hand(command, timed, capsys, monkeypatch):
    monkeypatch.setattr(platforms.Cpu, "label", lambda self: "Other CPU")
    assert main(command("--json")) == 0
    assert not timed["timed"]
    assert "measured_ms" not in json.loads(capsys.readouterr().out)["front"][0]
