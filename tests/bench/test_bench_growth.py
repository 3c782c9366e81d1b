"""Growing with real trainings of a few steps, interrupted, in parts, and with what a broken machine does."""

import dataclasses
import json
import os
import time
from dataclasses import replace

import forks
import pytest
from offenders import every

import flashnas.bench.measure as bench_measure
from flashnas.api.bench import grow_bench
from flashnas.architecture import Architecture
from flashnas.bench.journal import Header, grow, journals_in, merged, train_gently
from flashnas.bench.plan import plan
from flashnas.cli.main import main
from flashnas.data.dataset import prepare_dataset
from flashnas.evidence.trainings import read_published
from flashnas.executors import Ended
from flashnas.latency.workload import Workload
from flashnas.profiling.device_timing import Effort
from flashnas.profiling.setup import Setup
from flashnas.space import load_space
from flashnas.training.recipe import Recipe
from flashnas.trust.published_study import PublishedPlan

TIMES = ("tokens_per_s", "seconds")


@pytest.fixture
def command(small_corpus, quick_recipe):
    def build(out, *more):
        return ["bench", "grow", "--recipe", str(quick_recipe), "--data", str(small_corpus), "--space", "tiny",
                "--trainings", "7", "--repeat-every", "3", "--workers", "1", "--out", str(out), *more]
    return build


def rows(folder):
    """The trainings of a folder without their times, in the order of their keys."""
    _, trainings = merged(journals_in(folder))
    kept = [{name: value for name, value in dataclasses.asdict(one).items() if name not in (*TIMES, "key", "network")}
            for one in trainings]
    return sorted(kept, key=lambda row: (row["proxy"], row["seed"]))


@pytest.mark.slow
def test_a_killed_growth_goes_on_and_loses_nothing_that_was_finished(command, tmp_path, capsys):
    cut = command(tmp_path / "cut")
    process = forks.start_command(cut)
    journal, deadline = tmp_path / "cut" / "trainings.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:  # the header and two trainings
            break
        time.sleep(0.01)
    process.kill()
    process.join()
    finished = journal.read_bytes()
    kept = finished[:finished.rfind(b"\n") + 1]
    assert 2 <= len(merged([journal])[1]) < 7
    assert main([*cut, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["asked"], found["known"] + found["trained"], found["failed"]) == (7, 7, 0)
    assert found["known"] == kept.count(b"\n") - 1
    assert journal.read_bytes().startswith(kept)

    for part in ("1/2", "2/2"):  # as two machines would train it, merged
        assert main(command(tmp_path / "parts", "--part", part)) == 0
    assert [path.stem for path in journals_in(tmp_path / "parts")] == ["trainings-1-of-2", "trainings-2-of-2"]
    assert rows(tmp_path / "parts") == rows(tmp_path / "cut")
    capsys.readouterr()
    assert main([*command(tmp_path / "parts"), "--json"]) == 0  # another cut of the list: all is there
    assert json.loads(capsys.readouterr().out)["known"] == 7

    assert main(["bench", "build", "--journals", str(tmp_path / "parts"), "--journals", str(journal), "--out",
                 str(tmp_path / "bench"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trainings"], found["seeds"]) == (7, {"0": 4, "1": 2, "2": 1})
    assert main(["bench", "info", str(tmp_path / "bench")]) == 0
    assert "7 trainings of 4 networks, 0 failed" in capsys.readouterr().out
    assert main(["bench", "measure", "--journals", str(tmp_path / "cut"), "--workload", "batch=1,prompt=4,generated=4",
                 "--seconds", "0.01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 4
    assert main(["bench", "measure", "--journals", str(tmp_path / "cut"), "--workload", "batch=1,prompt=4,generated=4",
                 "--seconds", "0.01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == 4


def test_networks_that_need_more_memory_than_is_free_are_counted_and_not_timed(tmp_path, monkeypatch):
    small, large = (Architecture.parse(f"{width}(vocab=300): a(head_dim=16) f") for width in (32, 64))
    monkeypatch.setattr(bench_measure, "free_bytes", lambda: 4 * 1.5 * small.params)
    for again in (False, True):
        found = bench_measure.measure([small, large], tmp_path, Setup(dtype="float32", effort=Effort(seconds=0.01)),
                                      Workload(prompt_tokens=4, generated_tokens=2), lambda *_: None)
        assert found == {"measured": 1 - again, "known": int(again), "too_large": 1}


class Pool:
    """Answers each job in turn with (kind, score, reason)."""

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def run(self, jobs, on_wait=None):
        for key, answer in zip(jobs, self.answers, strict=False):
            self.asked.append(jobs[key])
            yield key, Ended(**dict(zip(("kind", "result", "reason"), answer, strict=True)))
            on_wait()


SCORE = {"loss": 3.0, "bits_per_byte": 2.0, "curve": [[512, 3.0]], "tokens": 512, "tokens_per_s": 9.0, "seconds": 10.0,
         "seed": 0, "proxy_params": 1000, "backends": {}}


@pytest.fixture
def growing(quick_recipe, small_corpus, tmp_path):
    """Grows a bench of four networks of `tiny` with a given pool."""
    recipe = Recipe.load(quick_recipe)
    dataset = prepare_dataset(str(small_corpus), recipe)
    planned = plan([], [load_space("tiny")], recipe, vocab=dataset.vocab, trainings=4, seeds=1)
    header = Header.here(recipe, str(small_corpus), dataset.digest, dataset.vocab)

    def run(pool, name="trainings.jsonl"):
        return grow(planned, tmp_path / "journals" / name, header, dataset.folder, pool, lambda *_: None, workers=1)
    run.planned = planned
    return run


def test_what_any_journal_of_the_folder_has_is_not_trained_again(growing):
    counts = growing(Pool(("done", SCORE, ""), ("failed", None, "diverged")))
    assert counts == {"asked": 4, "known": 0, "trained": 1, "failed": 1, "lost": 0}
    pool = Pool(("done", SCORE, ""))
    assert growing(pool, name="trainings-2.jsonl") == {"asked": 4, "known": 2, "trained": 1, "failed": 0, "lost": 0}
    assert pool.asked[0]["architecture"] == growing.planned[2].proxy.to_dict()


def test_a_job_runs_at_low_priority_and_gives_a_whole_score(growing, small_corpus, quick_recipe, monkeypatch):
    pool = Pool()
    growing(pool)
    recipe = Recipe.load(quick_recipe)
    job = {"architecture": growing.planned[0].network.architecture.to_dict(), "seed": 0, "recipe": recipe.to_dict(),
           "dataset": str(prepare_dataset(str(small_corpus), recipe).folder)}
    asked = []
    monkeypatch.setattr(os, "nice", lambda more: asked.append(more) or 0)
    score = train_gently(job)
    assert asked[-1] >= 10
    assert set(score) >= set(SCORE)


@every(case=[
    (["--part", "3/2"], "--part must read K/N with K from 1 to N, such as 2/3; got '3/2'"),
    (["--trainings", "0"], "--trainings must be at least 1; got 0"),
    (["--networks", "none.csv"], "none.csv: cannot be read: No such file or directory"),
    (["--space", "nowhere"], "is not a shipped search space")])
def test_bad_input_is_one_line(command, case, tmp_path, capsys):
    words, message = case
    assert main(command(tmp_path / "out", *words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_published_networks_come_first_as_they_are_trained_elsewhere(small_corpus, quick_recipe, tmp_path, monkeypatch):
    recipe = replace(Recipe.load(quick_recipe), width_factor=32)
    seen = []
    monkeypatch.setattr("flashnas.bench.plan.plan", lambda first, *_, **__: seen.extend(first) or [])
    grow_bench(recipe=recipe, data=str(small_corpus), published="params", out=tmp_path / "out", dry_run=True)
    rows = read_published()
    study = PublishedPlan(rows=rows, recipe=recipe, data=str(small_corpus))
    assert [given.proxy for given in seen] == study.networks(300)
    for given, row in zip(seen, rows, strict=True):
        assert given.origin == f"published:{row.group}"
        if not row.hidden:  # of others the width is stated, and the nearest one that is built may be far from it
            assert given.architecture.params == pytest.approx(row.params, rel=0.3)


def test_a_dry_run_trains_nothing(command, tmp_path, capsys):
    assert main([*command(tmp_path / "out"), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["asked"], found["known"], found["balance"]["seed"]) == (7, 0, {"0": 4, "1": 2, "2": 1})
    assert not (tmp_path / "out").exists()
