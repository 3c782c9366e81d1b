"""`flashnas proxy-trust --published` with real trainings of tiny proxies: what it trains, keeps, continues and says."""

import json
import shutil

import pytest
from offenders import every

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.bench.answers import Answers
from flashnas.cli.main import main
from flashnas.evidence.trainings import read_published
from flashnas.report import study_figures
from flashnas.training.recipe import Recipe
from flashnas.training.store import read_table
from flashnas.trust.published_study import ProxyTraining

ROWS = """\
group,source,operators,params,metric,value
g,2405.21060,2x(a f),350M,pile_val_ppl,8.6
g,2405.21060,4x(m2),350M,pile_val_ppl,8.5
g,2405.21060,2x(d f),350M,pile_val_ppl,8.2
h,2511.18890,2x(a f),350M,val_loss,2.5
h,2511.18890,2x(d f),350M,val_loss,2.6
"""
RECIPE = """\
width_factor: 64
vocab: 300
sequence_tokens: 64
batch_sequences: 2
tokens: 512
validation_tokens: 128
curve_points: 4
curve_tokens: 64
dtype: float32
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory, small_corpus):
    """Words of the command, without a folder of results."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "rows.csv").write_text(ROWS)
    (folder / "tiny.yaml").write_text(RECIPE)
    return ["proxy-trust", "--published", str(folder / "rows.csv"), "--recipe", str(folder / "tiny.yaml"),
            "--data", str(small_corpus), "--match", "layout", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    """A folder with the study done once."""
    out = tmp_path_factory.mktemp("study")
    assert main([*given, "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "study")


@pytest.fixture
def drawn():
    """The command draws its picture, as it does for a user."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """In other tests it does not: that takes as long as the rest of a study."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(study_figures, "save", lambda picture, path: None)


def trainings_of(path):
    return read_table(path, ProxyTraining)


def run_json(words, capsys):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_result_as_json_and_in_words(drawn, given, folder, capsys):
    (folder / "published.png").unlink()
    found = run_json([*given, "--out", str(folder)], capsys)
    assert set(found) >= {"overall", "groups", "consensus", "baselines", "publications", "recipe", "core_seconds"}
    assert set(found["overall"]) >= {"pairs", "right", "share", "interval", "spearman"}
    for group in found["groups"]:
        assert set(group) >= {"group", "pairs", "right", "share", "interval", "spearman", "wrong"}
        assert len(group["wrong"]) >= group["pairs"] - group["right"]
    assert [(group["group"], group["pairs"]) for group in found["groups"]] == [("g", 2), ("h", 1)]
    assert found["overall"]["right"] == sum(group["right"] for group in found["groups"])
    assert list(found["baselines"]) == ["parameters", "FLOPs", "width", "depth", "a coin"]
    assert found["baselines"]["a coin"]["share"] == 0.5
    assert found["recipe"]["tokens"] == 512
    assert found["core_seconds"] > 0
    assert found["failed"] == found["missing"] == 0
    assert list(found["models"]) == list(found["models_common"]) == ["short", "law", "evidence", "full"]
    for name, model in found["models"].items():
        assert set(model) >= {"pairs", "right", "share", "rmse_nats", "coverage", "groups"}
        assert [(group["group"], group["pairs"]) for group in model["groups"]] == [("g", 2), ("h", 1)]
        assert (model["coverage"] is None) == (name == "short")
    assert found["models"]["short"]["right"] == found["overall"]["right"]
    assert (folder / "published.png").read_bytes().startswith(b"\x89PNG")
    assert found["picture"] == str(folder / "published.png")
    assert main([*given, "--out", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"orders {found['overall']['right']} of 3 clear pairs as published" in out
    assert "one publication by another" in out
    assert str(folder / "published.jsonl") in out


def test_a_proxy_that_two_rows_share_is_trained_once(given, folder, capsys):
    table = trainings_of(folder / "published.jsonl")
    assert len(table) == 3  # of five rows: groups g and h share a and d under the layout rule
    before = (folder / "published.jsonl").read_bytes()
    found = run_json([*given, "--out", str(folder)], capsys)
    assert found["trainings"] == 3
    assert (folder / "published.jsonl").read_bytes() == before  # nothing was trained again


@pytest.mark.slow
def test_more_seeds_and_another_recipe_in_the_same_folder_do_not_mix(given, folder, capsys, tmp_path):
    first = run_json([*given, "--out", str(folder)], capsys)
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("\ntokens: 512", "\ntokens: 1024"))
    words = [str(other) if word.endswith("tiny.yaml") else word for word in given]
    second = run_json([*words, "--out", str(folder)], capsys)
    table = trainings_of(folder / "published.jsonl")
    assert table.groupby("recipe").size().to_dict() == {
        Recipe.load(str(other)).digest: 3, Recipe.load(given[4]).digest: 3}
    assert second["trainings"] == first["trainings"] == 3
    again = run_json([*given, "--out", str(folder)], capsys)
    assert again == first
    seeds = run_json([*given, "--out", str(folder), "--seeds", "2"], capsys)
    assert seeds["trainings"] == 6
    assert len(trainings_of(folder / "published.jsonl")) == 9


def test_a_proxy_is_thinned_out_once(given, tmp_path, capsys):
    """`4x(m2)` becomes 2 operators under a depth factor of 2, and not 1."""
    shallow = tmp_path / "shallow.yaml"
    shallow.write_text(RECIPE + "depth_factor: 2\n")
    words = [str(shallow) if word.endswith("tiny.yaml") else word for word in given]
    run_json([*words, "--out", str(tmp_path / "out")], capsys)
    table = trainings_of(tmp_path / "out" / "published.jsonl")
    networks = [Architecture.parse(text) for text in table["proxy"]]
    assert [[spec.kind for spec in network.operators] for network in networks] == [["a", "f"], ["m2"] * 2, ["d", "f"]]
    assert table["proxy_params"].tolist() == [network.params for network in networks]


def test_what_a_bench_has_is_not_trained(given, folder, capsys, tmp_path, monkeypatch):
    recipe = Recipe.load(given[4])
    trained = trainings_of(folder / "published.jsonl")
    first = trained.iloc[0]
    score = {"loss": 1.5, "bits_per_byte": 1.0, "tokens": 512, "tokens_per_s": 1.0, "proxy_params": 7, "seconds": 60.0}
    asked = []

    def find(source, recipe, *, dataset, vocab, seed):
        asked.append((source, recipe.name, dataset, vocab, seed))
        return Answers("b", recipe, vocab, "", (), {Architecture.parse(first["proxy"]).hash: score})
    monkeypatch.setattr("flashnas.trust.published_study.find_answers", find)
    out = tmp_path / "out"
    found = run_json([*given, "--out", str(out)], capsys)
    assert asked == [(None, recipe.name, first["data"], 300, 0)]
    assert (found["from_bench"], found["trainings"]) == (1, 3)
    assert found["core_seconds_each"] == 60.0
    kept = trainings_of(out / "published.jsonl")
    assert kept["proxy"].tolist() == trained["proxy"].tolist()[1:]
    assert "2x(d f) | 2x(a f)" in found["groups"][0]["wrong"]   # the network of the bench is far ahead of all others
    assert main([*given, "--out", str(out)]) == 0
    assert "3 trainings took 1 core-minutes, the longest 1.0; from the shipped bench: 1" in (
        capsys.readouterr().out)
    assert run_json([*given, "--out", str(folder)], capsys)["from_bench"] == 0   # the folder has them all
    assert run_json([*given, "--out", str(out), "--no-bench"], capsys)["from_bench"] == 0
    assert sorted(trainings_of(out / "published.jsonl")["proxy"]) == sorted(trained["proxy"])


def test_what_is_missing_is_said_before_it_is_trained_and_may_be_left_out(given, folder, tmp_path, capsys):
    path = folder / "published.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert main([*given, "--out", str(folder), "--no-train", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "missing" not in err
    assert (found["trainings"], found["missing"]) == (2, 1)
    assert path.read_text() == "".join(lines[:-1])
    assert found["models"]["evidence"]["pairs"] == 3
    assert found["models"]["short"]["pairs"] == found["models_common"]["full"]["pairs"] < 3
    assert main([*given, "--out", str(folder)]) == 0
    assert "1 of 3 trainings are missing and start now, about " in capsys.readouterr().err
    assert main([*given, "--out", str(tmp_path / "none"), "--no-train"]) == 0
    out = capsys.readouterr().out
    assert "the short loss is not known yet: no clear pair has both of its networks trained" in out
    assert "of 3 clear pairs" in out
    assert main(["proxy-trust", "some_run", "--no-train"]) == 2
    assert "--no-train needs --published" in capsys.readouterr().err


def test_a_row_is_foretold_without_its_publication(given, tmp_path, capsys):
    """The first group is of a publication that ships; under another source that publication is not left out."""
    words = [*given, "--no-train", "--out", str(tmp_path / "out")]
    found = run_json(words, capsys)["models"]["evidence"]
    other = tmp_path / "other.csv"
    other.write_text(ROWS.replace("2405.21060", "mine"))
    words[2] = str(other)
    assert run_json(words, capsys)["models"]["evidence"]["rmse_nats"] != found["rmse_nats"]


@every(case=[
    (["--match", "width"], "--match must be one of params, layout; got 'width'"),
    (["--recipe", "none"], "none"),
    (["--seeds", "0"], "--seeds must be at least 1; got 0"),
    (["--results", "x.csv"], "--published must be given, and only one of them"),
    (["some_run"], "--published must be given, and only one of them"),
])
def test_what_the_user_got_wrong_is_one_line(case, capsys, tmp_path, monkeypatch):
    words, expected = case
    monkeypatch.chdir(tmp_path)
    assert main(["proxy-trust", *words, "--published"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1


def test_the_flag_alone_stands_for_the_shipped_rows(monkeypatch):
    from flashnas.trust import published_study

    asked = []

    def seen(plan, *rest, **options):
        asked.append(plan)
        raise RunError("enough")
    monkeypatch.setattr(published_study, "study_published", seen)
    assert main(["proxy-trust", "--published"]) != 0
    assert main(["proxy-trust", "--published", "--seeds", "3"]) != 0
    assert [list(plan.rows) == read_published() for plan in asked] == [True, True]
    assert [plan.seeds for plan in asked] == [1, 3]
