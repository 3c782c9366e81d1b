"""Searches whose trainings pause: the same scores, the same trajectory however it is run, and tokens that add up."""

import dataclasses
import json
import os
import time

import forks
import numpy as np
import pandas as pd
import pytest
import yaml
from plans import plan

from flashnas.base.errors import ConfigError
from flashnas.cli.main import main
from flashnas.report.words import counts_line
from flashnas.runs.folder import RunFolder
from flashnas.runs.run import RecordedRun
from flashnas.search.pareto import non_dominated
from flashnas.study.config import SearchConfig
from flashnas.study.prepare import prepare
from flashnas.study.rungs import rungs_of
from flashnas.training.recipe import Recipe

TIMES = ["tokens_per_s", "train_seconds"]
WHOLE, RUNGS = 1024, (512, 768)


@pytest.fixture(scope="module")
def recipe(quick_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "curve.yaml"
    path.write_text(quick_recipe.read_text().replace("curve_points: 2", "curve_points: 4")
                    .replace("tokens: 512\nvalidation", "tokens: 1024\nvalidation"))
    return path


@pytest.fixture(scope="module")
def command(small_corpus, recipe):
    def build(out, *more, rungs=RUNGS):
        asked = (["--rungs", ",".join(map(str, rungs)), "--rung-chance", "0.5", "--seeds", "1"] if rungs else
                 ["--rank-by", "short"])
        return ["search", "--space", "tiny", "--table", "h100_sxm", "--workload", "chat", "--recipe", str(recipe),
                "--data", str(small_corpus), "--trials", "6", "--cycle-size", "3", "--no-baselines", "--no-measure",
                "--sampler", "random", "--workers", "1", *asked, "--out", str(out), *more]
    return build


@pytest.fixture(scope="module")
def paused(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("paused") / "run"
    assert main(command(out)) == 0
    return out


@pytest.fixture(scope="module")
def plain(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    assert main(command(out, rungs=())) == 0
    return out


def trials(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=TIMES)


def outcomes(out):
    return [json.loads(line)["user_attrs"]["outcome"] for line in (out / "study.journal").read_text().splitlines()
            if '"outcome"' in line]


@pytest.mark.slow
def test_who_passes_all_rungs_has_the_score_of_a_search_without(paused, plain):
    """The random sampler proposes the same networks."""
    with_rungs, without = trials(paused), trials(plain)
    assert with_rungs["hash"].tolist() == without["hash"].tolist()
    assert set(without["state"]) == {"complete"}
    passed, stopped = with_rungs["state"] == "complete", with_rungs["state"] == "stopped"
    assert 2 <= passed.sum() <= 4
    assert (passed | stopped).all()
    forecast = ["expected_loss", "expected_loss_sd"]
    pd.testing.assert_frame_equal(with_rungs[passed].drop(columns=forecast), without[passed].drop(columns=forecast))
    for row, whole in zip(with_rungs[stopped].itertuples(), without[stopped].itertuples(), strict=True):
        curve = json.loads(row.curve)
        assert curve == json.loads(whole.curve)[:len(curve)]
        assert row.tokens == curve[-1][0]
        assert row.tokens in RUNGS
        assert np.isnan(row.loss)
        assert row.expected_loss < curve[-1][1] + 0.5
        assert row.expected_loss_sd > 0


@pytest.mark.slow
def test_the_front_is_that_of_the_finished(paused):
    run = RecordedRun.load(paused)
    done = run.trials[run.trials["state"] == "complete"]
    best = done[non_dominated(done[["loss", "latency_ms"]].to_numpy(float))]
    assert {entry.hash for entry in run.front} == set(best["hash"])
    assert f"{(run.trials['state'] == 'stopped').sum()} stopped at a rung" in counts_line(run)


@pytest.mark.slow
def test_each_token_is_counted_once(paused, plain):
    frame, totals = trials(paused), yaml.safe_load((paused / "run.yaml").read_text())["totals"]
    assert totals["tokens"] == frame["tokens"].sum()
    assert totals["tokens"] + totals["tokens_saved"] == WHOLE * len(frame)
    assert totals["tokens_saved"] > 0
    assert totals["stopped"] == (frame["state"] == "stopped").sum()
    assert (totals["tokens_repeated"], totals["tokens_tasks"]) == (0, 0)
    whole = yaml.safe_load((plain / "run.yaml").read_text())["totals"]
    assert (whole["tokens"], whole["tokens_saved"], whole["tokens_seeds"]) == (WHOLE * len(frame), 0, 0)


@pytest.mark.slow
def test_where_workers_do_not_find_checkpoints_what_they_train_again_is_counted(command, paused, tmp_path, monkeypatch,
                                                                                capsys):
    monkeypatch.setattr(RunFolder, "checkpoints_of", lambda self, key: tmp_path / "of another machine" / key)
    printed = []
    for more in ((), ("--resume",)):
        assert main(command(tmp_path / "run", *more)) == 0
        printed.append(capsys.readouterr().out)
    pd.testing.assert_frame_equal(trials(tmp_path / "run"), trials(paused))
    here, there = (yaml.safe_load((run / "run.yaml").read_text())["totals"] for run in (paused, tmp_path / "run"))
    before = {RUNGS[0]: 0, RUNGS[1]: RUNGS[0], None: RUNGS[1]}  # what a training had done when it was continued
    again = sum(before[outcome.get("rung")] for outcome in outcomes(paused))
    assert again > 0
    assert there == {**here, "tokens": here["tokens"] + again, "tokens_repeated": again}
    for text in printed:
        assert f"{again:,} of them repeated, because checkpoints were out of reach" in text


@pytest.mark.slow
def test_killed_at_a_rung_and_resumed_equals_uninterrupted(command, paused, tmp_path):
    cut = command(tmp_path / "run", "--workers", "2")
    process = forks.start_command(cut)
    journal, deadline = tmp_path / "run" / "study.journal", time.monotonic() + 300
    while time.monotonic() < deadline and process.is_alive():
        if journal.exists() and journal.read_bytes().count(b'"outcome"') >= 2:
            break
        time.sleep(0.005)
    process.kill()
    process.join()
    before = outcomes(tmp_path / "run")
    assert 2 <= len(before) < len(outcomes(paused))
    assert main([*cut, "--resume"]) == 0
    pd.testing.assert_frame_equal(trials(tmp_path / "run"), trials(paused))
    after = outcomes(tmp_path / "run")
    assert after[:len(before)] == before
    assert len(after) == len({(o["hash"], o.get("rung")) for o in after}) == len(outcomes(paused))
    fronts = [[yaml.safe_load(p.read_text())["hash"] for p in sorted((run / "pareto").glob("*.yaml"))]
              for run in (paused, tmp_path / "run")]
    assert fronts[0] == fronts[1]


@pytest.mark.slow
def test_a_run_continues_under_the_same_rungs_only(command, paused, capsys):
    assert main(command(paused, "--resume", rungs=(512,))) == 2
    assert "question.rungs is [512, 768], but this search asks [512]" in capsys.readouterr().err
    assert main(command(paused, "--resume", "--rung-chance", "0.1")) == 2
    assert "question.rung_chance is 0.5, but this search asks 0.1" in capsys.readouterr().err


# -- where trainings pause -----------------------------------------------------------------------------------


def curves(count, agreeing):
    """Over `count` networks, in order from the point `agreeing` of 4 on, and shuffled before."""
    rng = np.random.default_rng(0)
    return [[[256 * (place + 1), float(number if place >= agreeing else rng.normal())] for place in range(4)]
            for number in range(count)]


@pytest.mark.parametrize(("count", "agreeing", "expected"), [(30, 1, (512, 768)), (30, 2, (768,)), (5, 1, (768,))])
def test_auto_takes_the_points_at_which_the_order_is_that_of_the_end(recipe, count, agreeing, expected):
    notes = []
    found = rungs_of(SearchConfig(rungs=("auto",)), Recipe.load(recipe).curve_at, "the curve", notes.append,
                     bench="mine", curves=curves(count, agreeing))
    assert found.tokens == expected
    assert notes == [f"rungs at {', '.join(map(str, expected))} of 1,024 tokens: " + (
        "no bench says where, and 75% is the default" if count == 5 else
        "over the 30 networks of bench mine the rank correlation with the final losses is 0.9 or more from there on")]


def test_a_rung_before_the_order_of_a_bench_is_that_of_the_end_is_refused_unless_it_is_asked_for(recipe):
    def found(agreeing=2, count=30, **more):
        return rungs_of(SearchConfig(rungs=(256, 768), **more), Recipe.load(recipe).curve_at, "the curve", notes.append,
                        bench="mine", curves=curves(count, agreeing))

    notes = []
    with pytest.raises(ConfigError) as caught:
        found()
    assert str(caught.value) == (
        "search.rungs must be at 768 tokens or later: over the 30 networks of bench mine the rank correlation with the"
        " final losses is 0.9 or more from there on; got 256; --early-rungs takes it all the same")
    with pytest.raises(ConfigError, match=r"must be left out: over .* is below 0\.9 until the end; got 256; --early"):
        found(agreeing=3)
    assert notes == []
    assert found(early_rungs=True).tokens == (256, 768)
    assert found(count=19).tokens == (256, 768)  # too few networks to say it
    assert [line.partition(":")[0] for line in notes] == 2 * [
        "the rung at 256 tokens is early; losses are in order from 768 on"]
    assert notes[1].endswith("no bench says where, and 75% is the default")
    assert SearchConfig(rungs=(256,), early_rungs=True).question() == SearchConfig(rungs=(256,)).question()


def test_auto_without_a_late_point_is_one_line(recipe):
    with pytest.raises(ConfigError, match=r"search\.rungs auto needs a point of the curve before its end, at 1,024"):
        rungs_of(SearchConfig(rungs="auto"), Recipe.load(recipe).curve_at, "the curve", print, bench="mine",
                 curves=curves(30, 3))


@pytest.mark.slow  # it prepares the shipped corpus, as a first search does
@pytest.mark.skipif(os.environ.get("FLASHNAS_OFFLINE") == "1", reason="reads the shipped corpus")
def test_the_command_refuses_a_rung_that_the_shipped_bench_shows_to_be_early(tmp_path, capsys):
    words = ["search", "--no-measure", "--rungs", "65536,131072", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("flashnas search: --rungs must be at 131,072 tokens or later: over the")
    assert "networks of bench cpu" in error
    assert not (tmp_path / "run").exists()
    notes = []
    rungs = prepare(SearchConfig(rungs=("auto",), measure=False), note=notes.append).rungs
    assert rungs.tokens == (131_072, 196_608)
    assert len(rungs.curves) >= 66
    assert any("bench cpu" in note for note in notes)


@pytest.mark.parametrize(("asked", "expected"), [
    (("50%", "75%"), (512, 768)), (("10%",), (256,)), (("51%",), (768,)), (("50%", "51%", "99.9%"), (512, 768))])
def test_shares_are_the_first_points_there_or_later(recipe, asked, expected):
    found = rungs_of(SearchConfig(rungs=asked), Recipe.load(recipe).curve_at, "the curve", lambda _: None)
    assert found.tokens == expected


def test_the_command_line_turns_the_rungs_and_seeds_of_a_file_off(tmp_path):
    (tmp_path / "config.yaml").write_text("rungs: [50%, 75%]\nseeds: 3\n")
    assert SearchConfig.load(tmp_path / "config.yaml", {}).rungs == ("50%", "75%")
    off = SearchConfig.load(tmp_path / "config.yaml", {"rungs": ("none",), "seeds": 1})
    assert (off.rungs, off.seeds) == ((), 1)
    assert off.question() == SearchConfig().question()


def test_with_rungs_the_front_has_three_seeds_unless_asked_otherwise(recipe, small_corpus):
    asked = SearchConfig(space="tiny", table="h100_sxm", workload="chat", recipe=str(recipe), data=str(small_corpus),
                         trials=8, baselines=False, measure=False, rungs=RUNGS)
    for changes, expected in (({}, 3), ({"seeds": 2}, 2), ({"rungs": ()}, 1)):
        found = plan(dataclasses.replace(asked, **changes))
        assert (found.seeds, found.seed_tokens, found.seeds_why) == (expected, (expected - 1) * WHOLE, "")
    assert "seeds      3 for each network of the front\n" in str(plan(asked))
