"""`flashnas proxy-trust` on a run of the tiny space: what it trains, keeps, continues and says; its error
lines."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.training.recipe import Recipe
from flashnas.training.store import read_table
from flashnas.trust.study import Plan, RankedTraining, choose

KEY = ["hash", "variant", "width_factor", "tokens", "seed"]
SMALL = ["--architectures", "4", "--seeds", "2", "--longer", "2", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_corpus, quick_recipe):
    out = tmp_path_factory.mktemp("searched") / "run"
    recipe = out.parent / "half.yaml"
    recipe.write_text(quick_recipe.read_text().replace("width_factor: 1", "width_factor: 2"))
    assert main(["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat",
                 "--recipe", str(recipe), "--data", str(small_corpus), "--trials", "5", "--no-baselines",
                 "--workers", "1", "--no-measure", "--rank-by", "short", "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture
def run_folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.slow
def test_a_study_trains_what_is_missing_once_and_says_what_it_found(run_folder, capsys):
    assert main(["proxy-trust", str(run_folder), *SMALL, "--wider", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    table = read_table(run_folder / "proxy_trust.jsonl", RankedTraining)
    assert table.groupby("variant").size().to_dict() == {"short": 8, "long": 8, "wide": 8}
    assert set(table["reason"]) == {""}
    assert table["loss"].notna().all()
    trials = pd.read_parquet(run_folder / "trials.parquet").drop_duplicates("hash").set_index("hash")
    own = table[(table["variant"] == "short") & (table["seed"] == 0)].set_index("hash")
    # the search's own training, not a second one
    assert (own["loss"] == trials["loss"].reindex(own.index)).all()
    assert set(table["tokens"]) == {512, 1024}
    assert set(table[table["variant"] == "wide"]["width_factor"]) == {1}
    front = {entry.stem for entry in (run_folder / "pareto").glob("*.yaml")}
    assert (table.groupby("set")["hash"].nunique().get("front", 0)) == min(4, len(front))
    assert found["architectures"] == 4
    assert found["trainings"] == 24
    assert {(a["first"], a["second"]) for a in found["agreements"]} >= {("short", "long"), ("short", "wide")}
    assert (run_folder / "proxy_trust.png").read_bytes().startswith(b"\x89PNG")

    # broken off: half of the rows and a torn line are left; only what is missing is trained, nothing
    # else changes
    lines = (run_folder / "proxy_trust.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "proxy_trust.jsonl").write_text("".join(lines[:13]) + lines[13][:20])
    assert main(["proxy-trust", str(run_folder), *SMALL, "--wider", "2"]) == 0
    out, err = capsys.readouterr()
    assert "24 trainings of 4 architectures" in out
    assert "[24/24] trainings" in err
    again = read_table(run_folder / "proxy_trust.jsonl", RankedTraining).set_index(KEY).sort_index()
    before = table.set_index(KEY).sort_index()
    assert again["loss"].tolist() == before["loss"].tolist()
    assert (run_folder / "proxy_trust.jsonl").read_text().startswith("".join(lines[:13]))

    # the table can be analysed by itself
    assert main(["proxy-trust", "--results", str(run_folder / "proxy_trust.jsonl"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["trainings"] == 24
    assert alone["agreements"] == found["agreements"]
    assert alone["run"] is None


def test_the_front_comes_first_then_others_spread_over_the_ranking():
    trained = pd.DataFrame({"hash": list("abcdefghij"), "loss": np.arange(10.0),
                            "latency_ms": np.arange(10.0)[::-1]})
    assert choose(trained, ["d", "b"], 6)["hash"].tolist() == ["d", "b", "a", "e", "h", "j"]
    assert choose(trained, list("abcdef"), 3)["hash"].tolist() == ["f", "d", "a"]
    assert len(choose(trained, ["a"], 24)) == 10


def test_a_plan_scales_tokens_and_width():
    recipes = Plan(longer=3, wider=4).recipes(Recipe(width_factor=16, tokens=1000))
    assert {v: (r.tokens, r.width_factor) for v, r in recipes.items()} == {
        "short": (1000, 16), "long": (3000, 16), "wide": (1000, 4)}
    with pytest.raises(ConfigError, match="--wider must be at least 2; got 1"):
        Plan(wider=1)
