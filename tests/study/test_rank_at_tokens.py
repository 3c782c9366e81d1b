"""A search that ranks by the loss extrapolated to a longer training."""

import json

import pandas as pd
import pytest
import yaml

import flashnas as fn
from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.proxy.extrapolation import extrapolate
from flashnas.search.pareto import non_dominated
from flashnas.study.config import SearchConfig


@pytest.fixture(scope="module")
def command(small_corpus, quick_recipe, tmp_path_factory):
    recipe = tmp_path_factory.mktemp("recipe") / "curve.yaml"
    recipe.write_text(quick_recipe.read_text().replace("curve_points: 2", "curve_points: 4"))

    def build(out, *more):
        return ["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--recipe", str(recipe),
                "--data", str(small_corpus), "--trials", "4", "--no-baselines", "--workers", "1", "--no-measure",
                "--out", str(out), *more]
    return build


@pytest.fixture(scope="module")
def ranked(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranked") / "run"
    assert main(command(out, "--rank-at-tokens", "4096")) == 0
    return out


def test_the_front_is_that_of_the_extrapolated_loss(ranked):
    trials = pd.read_parquet(ranked / "trials.parquet")
    done = trials[trials["state"] == "complete"]
    for row in done.itertuples():
        found = extrapolate(json.loads(row.curve), 4096)
        assert row.extrapolated_loss == found.loss != row.loss
        assert row.extrapolated_loss_sd == found.sd > 0
    best = done[non_dominated(done[["extrapolated_loss", "latency_ms"]].to_numpy(float))]
    run = fn.load_run(ranked)
    assert {entry.hash for entry in run.front} == set(best["hash"])
    assert run.objectives == ("extrapolated_loss", "latency_ms")
    entry = yaml.safe_load((ranked / "pareto" / "01.yaml").read_text())
    assert {"loss", "extrapolated_loss", "extrapolated_loss_sd"} <= set(entry["figures"])
    assert f"{entry['figures']['extrapolated_loss']:.3f} ± " in run.table()
    assert "extrapolated to 4,096 tokens" in (ranked / "report.html").read_text()


@pytest.mark.slow
def test_the_trainings_are_those_of_a_search_that_ranks_by_the_loss(command, ranked, tmp_path):
    """The first cycle is drawn before anything is known."""
    assert main(command(tmp_path / "run")) == 0
    plain, extrapolated = (pd.read_parquet(run / "trials.parquet") for run in (tmp_path / "run", ranked))
    assert plain["loss"].tolist() == extrapolated["loss"].tolist()
    assert plain["extrapolated_loss"].isna().all()
    assert "rank_at_tokens" not in yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["question"]


def test_a_run_continues_under_the_same_tokens_only(command, ranked, capsys):
    assert main(command(ranked, "--rank-at-tokens", "4096", "--resume")) == 0
    capsys.readouterr()
    assert main(command(ranked, "--rank-at-tokens", "8192", "--resume")) == 2
    assert "question.rank_at_tokens is 4096, but this search asks 8192" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "rule"), [
    (["--rank-at-tokens", "512"], "--rank-at-tokens must be above the tokens of a training (512); got 512"),
    (["--rank-at-tokens", "0"], "--rank-at-tokens must be at least 1; got 0"),
    (["--rank-at-tokens", "4096", "--tokens", "128"], "needs 2 points after the first third of a training"),
    (["--rank-at-tokens", "4096", "--objectives", "recall,latency_ms"], "needs loss among the objectives"),
    (["--objectives", "extrapolated_loss,latency_ms"], "has extrapolated_loss, which needs --rank-at-tokens N"),
])
def test_what_cannot_be_extrapolated_is_one_line(command, tmp_path, words, rule, capsys):
    assert main(command(tmp_path / "run", *words)) == 2
    err = capsys.readouterr().err
    assert rule in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_evaluator_has_no_curve():
    with pytest.raises(ConfigError, match=r"^search\.rank_at_tokens extrapolates a training's curve"):
        fn.search(space="tiny", workload="chat", rank_at_tokens=10**6, evaluator=lambda a: 1.0, measure=False)


def test_the_loss_gives_its_place_among_the_objectives():
    assert SearchConfig(rank_at_tokens=10**6).objectives == ("extrapolated_loss", "latency_ms")
    config = SearchConfig(rank_at_tokens=10**6, objectives=("memory_gb", "loss"))
    assert config.objectives == ("extrapolated_loss", "memory_gb")
    assert SearchConfig(rank_at_tokens=10**6, objectives=config.objectives).objectives == config.objectives
