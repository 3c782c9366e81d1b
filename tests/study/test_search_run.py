import json

import pandas as pd
import pytest
from config_keys import with_keys

from flashnas.base.registry import shipped_root
from flashnas.cli.main import main
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import load_workload
from flashnas.space import load_space


@pytest.fixture(scope="module")
def budget_ms(profiled_tiny_table):
    """A limit that the deepest networks meet at the middle width at most."""
    model = LatencyModel(LatencyTable.load(profiled_tiny_table), load_workload("chat"))
    space = load_space("tiny")
    operators = space.pure_models()[0][1]
    return model.estimate(space.build(operators, 96)).latency_ms


@pytest.fixture(scope="module")
def command(profiled_tiny_table, small_corpus, quick_recipe, budget_ms):
    def build(out, *more, **keys):
        keys = {
            "cycle_size": 2,
            "sampler_options": {"population": 3},
            "evidence": "none",
            "measure": False,
            **keys,
        }
        asked = (
            f"search --space tiny --table {profiled_tiny_table} --workload chat --budget-ms"
            f" {budget_ms} --recipe {quick_recipe} --data {small_corpus} --trials 4 --sampler"
            f" aging-evolution --workers 2 --out {out}"
        )
        return [*asked.split(), *with_keys(out.parent, **keys), *more]

    return build


def test_a_search_leaves_a_front_that_holds_what_it_promises(
    command, tmp_path, capsys, profiled_tiny_table, budget_ms, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # from here shipped files have absolute paths
    assert main([*command(tmp_path / "run", baselines=True), "--json"]) == 0
    out, _ = capsys.readouterr()
    summary = json.loads(out)
    assert summary["trials"]["complete"] >= 4
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert (trials["state"].isin(["complete", "expected"])).all()
    assert sum((trials["state"] == "complete") & (trials["origin"] == "search")) == 4
    assert (trials["origin"] == "baseline").any()
    assert (trials["latency_ms"].dropna() <= budget_ms).all()
    paths = sorted((tmp_path / "run" / "pareto").glob("[0-9]*.yaml"))
    assert [entry["config"] for entry in summary["front"]] == list(map(str, paths))
    assert paths
    for path, entry in zip(paths, summary["front"], strict=True):
        words = f"estimate {path} --table {profiled_tiny_table} --workload chat --json"
        assert main(words.split()) == 0
        estimate = json.loads(capsys.readouterr().out)
        assert estimate["latency_ms"] == pytest.approx(entry["latency_ms"])
        assert estimate["latency_ms"] <= budget_ms
        assert estimate["hash"] == entry["hash"]
    # which the report repeats, and which people pass on
    assert str(shipped_root("search_spaces")) not in (tmp_path / "run" / "run.yaml").read_text()


def test_failed_candidates_are_recorded_with_their_reason(command, tmp_path, capsys, quick_recipe):
    wild = tmp_path / "wild.yaml"
    wild.write_text(quick_recipe.read_text().replace("adamw_lr: 0.003", "adamw_lr: 1.0e+30"))
    assert main(command(tmp_path / "run", "--recipe", str(wild), baselines=False)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no candidate could be trained; reasons:" in error
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert set(trials["state"]) == {"failed"}
    assert (trials["reason"].str.len() > 0).all()


def test_a_run_goes_on_from_another_folder(
    tmp_path, monkeypatch, capsys, quick_recipe, small_corpus
):
    """Its recipe and its text are named by relative paths."""
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    other.mkdir()
    (first / "quick.yaml").write_text(quick_recipe.read_text())
    (first / "texts").symlink_to(small_corpus)
    monkeypatch.chdir(first)
    asked = (
        "search --space tiny --workload chat --recipe quick.yaml --data texts --trials 1"
        " --workers 1 --out run"
    )
    keys = with_keys(tmp_path, measure=False, baselines=False, evidence="none")
    assert main([*asked.split(), *keys]) == 0
    monkeypatch.chdir(other)
    assert main(["search", "--resume", "../first/run", "--trials", "2"]) == 0
    frame = pd.read_parquet(first / "run" / "trials.parquet")
    assert (frame["state"] == "complete").sum() == 2
