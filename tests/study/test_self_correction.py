"""A search that times networks while it searches: what is true of them becomes what is predicted."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from invented_times import CHAT, truth, write_invented_table
from notes import Notes

from flashnas.base.errors import ConfigError, TableError
from flashnas.latency.corrections import ModelCorrection, Regressors, fit, fit_leaving_out
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import store, validate
from flashnas.profiling import finalists, platforms
from flashnas.space import load_space
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search

TINY = load_space("tiny")
NAMES = ["latency_ms", "loss", "notation", "state"]


def loss_of(network):
    """Better with width and depth, so that a search goes to its budget."""
    return {"loss": 5 - 0.3 * np.log(network.params)}


@pytest.fixture
def table(tmp_path, monkeypatch):
    return write_invented_table(tmp_path / "table", monkeypatch)


@pytest.fixture
def device(table, monkeypatch):
    """Whole networks take 1.3 times their rows and 50 us for each operator; counts what was timed."""
    timed, real = [], truth(table, scale=1.3, operator_us=50)

    def measure(networks, model, setup, note):
        timed.extend(network.hash for network in networks)
        return {network.hash: {**real(network), "throughput_tok_s": 1.0} for network in networks}

    monkeypatch.setattr(finalists, "measure_finalists", measure)
    return timed, real


@pytest.fixture
def budget_ms(device):
    return device[1](TINY.build(TINY.pure_models()[0][1][:6], 96))["latency_ms"]


@pytest.fixture
def search(table, budget_ms, tmp_path):
    def run(*, out="run", resume=False, notes=None, **options):
        config = SearchConfig(**{"space": "tiny", "table": str(table.path), "workload": "chat", "trials": 24,
                                 "cycle_size": 6, "budget_ms": budget_ms, "measure_every": 2, "workers": 1,
                                 "sampler": "aging-evolution", "baselines": False, **options})
        return run_search(config, tmp_path / out, resume=resume, progress=notes or Notes(), evaluator=loss_of)
    return run


def test_predictions_become_what_was_measured(search, device, budget_ms, tmp_path):
    notes, (timed, _) = Notes(), device
    summary = search(notes=notes)
    run = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    first, last = run["corrections"][0], run["corrections"][-1]
    assert first["taken"]
    assert first["table_error"] > 0.2
    assert last["left_out_error"] < 1e-3
    assert last["constants"]["decode"]["scale"] == pytest.approx(1.3, rel=1e-3)
    assert last["constants"]["decode"]["operator_us"] == pytest.approx(50, rel=1e-2)
    assert any("latencies corrected; mean error of networks left out 0.0%" in line for line in notes.lines)
    for entry in summary["front"]:  # measured, predicted as measured, and within the budget that the table alone breaks
        assert entry["measured_ms"] == pytest.approx(entry["latency_ms"], rel=1e-3)
        assert entry["measured_ms"] <= budget_ms * 1.001
        assert entry["missed"] == []
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    late = trials[trials["cycle"] == trials["cycle"].max()]["latency_ms"].dropna()
    assert len(late)
    assert (late <= budget_ms * 1.001).all()
    assert len(timed) == len(set(timed)) < len(trials)
    assert LatencyTable.load(tmp_path / "table").calibration == {}  # the table itself stays as it was


@pytest.mark.slow
def test_every_kth_network_is_timed_and_a_continued_run_is_the_same(search, device, tmp_path, monkeypatch):
    timed, _ = device
    whole = search()
    first = len(timed)
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    counted = [key for key, state in zip(trials["hash"], trials["state"], strict=True) if state == "complete"]
    measured = json.loads((tmp_path / "run" / "measured.json").read_text())
    front = {entry["hash"] for entry in whole["front"]}
    assert set(counted[::2]) <= set(measured) <= set(counted[::2]) | front | {*timed}
    assert search(resume=True)["front"] == whole["front"]
    assert len(timed) == first

    evaluated = []

    def dies(network):
        evaluated.append(network)
        if len(evaluated) == 15:
            raise KeyboardInterrupt
        return loss_of(network)

    config = SearchConfig(space="tiny", table=str(tmp_path / "table"), workload="chat", trials=24, cycle_size=6,
                          budgets={"latency_ms": whole_budget(tmp_path)}, measure_every=2, workers=1,
                          sampler="aging-evolution", baselines=False)
    with pytest.raises(KeyboardInterrupt):
        run_search(config, tmp_path / "other", resume=False, progress=Notes(), evaluator=dies)
    run_search(config, tmp_path / "other", resume=True, progress=Notes(), evaluator=dies)
    other = pd.read_parquet(tmp_path / "other" / "trials.parquet")
    pd.testing.assert_frame_equal(other[NAMES], trials[NAMES])


def whole_budget(tmp_path):
    return yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["budgets"]["latency_ms"]


@pytest.mark.slow
def test_a_table_that_is_right_is_left_as_it_is(table, search, monkeypatch, tmp_path):
    real = truth(table)
    monkeypatch.setattr(finalists, "measure_finalists", lambda networks, model, setup, note: {
        network.hash: {**real(network), "throughput_tok_s": 1.0} for network in networks})
    search()
    run = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert all(not version["taken"] for version in run.get("corrections") or [])


@pytest.mark.slow
def test_bounds_and_certificate_follow_the_residuals(table, search, monkeypatch, tmp_path, budget_ms):
    """The table was validated when all took 1.1 times as long; now they take 1.4 times, give or take 5 %."""
    store(validate(table, TINY, CHAT, truth(table, scale=1.1), count=19), TINY, CHAT, seed=0, calibrate=False)
    noise = np.random.default_rng(0)
    real = truth(LatencyTable.load(table.path), scale=1.4, noise=lambda: float(np.exp(0.05 * noise.standard_normal())))
    monkeypatch.setattr(finalists, "measure_finalists", lambda networks, model, setup, note: {
        network.hash: {**real(network), "throughput_tok_s": 1.0} for network in networks})
    search(confidence=0.9, measure_every=1)
    last = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["corrections"][-1]
    assert last["taken"]
    assert 0.02 < last["margins"]["latency_ms"] < 0.2  # of the corrected prediction, and not log 1.1
    assert -0.15 < last["bounds"][0] < 0 < last["bounds"][1] < 0.15
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet").dropna(subset=["latency_ms"])
    ratio = np.log(trials["upper_ms"] / trials["latency_ms"])
    assert ratio.max() == pytest.approx(last["bounds"][1], rel=1e-3)


@pytest.mark.parametrize(("options", "words"), [
    ({"measure": False}, "search.measure_every and --no-measure exclude each other"),
    ({"asynchronous": True}, "search.measure_every and --asynchronous exclude each other"),
    ({"measure_every": 0}, "search.measure_every must be at least 1; got 0")])
def test_what_excludes_it_is_one_line(search, options, words):
    with pytest.raises(ConfigError, match=words):
        search(**options)


def test_a_table_of_another_device_or_of_kernels_is_refused(search, monkeypatch):
    monkeypatch.setattr(platforms.Cpu, "label", lambda self: "Other CPU")
    with pytest.raises(TableError, match=r"--measure-every times networks: .* but this is Other CPU"):
        search()
    with pytest.raises(TableError, match="--measure-every corrects rows of whole operators, which table h100_sxm"):
        search(table="h100_sxm", space="nemotron_flash")


def test_the_fit_to_the_others_is_the_fit():
    """What each model is predicted from is the least-squares fit to the others, with the same constants."""
    rng = np.random.default_rng(0)
    models = [Regressors(rows_us=rows, operators=n, megabytes=0.0,
                         measured_us=(1.2 * rows + 30 * n) * float(np.exp(0.01 * rng.standard_normal())))
              for rows, n in zip(rng.uniform(100, 5000, 12), rng.integers(2, 30, 12).tolist(), strict=True)]
    found, left_out = fit_leaving_out(models)
    assert found == fit(models)
    assert isinstance(found, ModelCorrection)
    for number, predicted in enumerate(left_out):
        others, model = fit([model for place, model in enumerate(models) if place != number]), models[number]
        by_hand = others.scale * model.rows_us + others.operator_us * model.operators + others.model_us
        assert predicted == pytest.approx(by_hand, rel=0.02)

