"""A search that answers from a bench: what is known is not trained, and everything else stays as it
was.
"""

import dataclasses

import pandas as pd
import pytest
from bench_builder import header, made_up_trainings, row, score, write, write_bench
from notes import Notes
from one_line import one_line
from plans import plan

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError, RunError
from flashnas.bench.answers import Answers, answers
from flashnas.data.dataset import prepare_dataset
from flashnas.executors.job import Job, run_job
from flashnas.latency.prediction import LatencyModel
from flashnas.report.networks import counts_line
from flashnas.report.page import write_report
from flashnas.runs.run import RecordedRun
from flashnas.search.objectives import non_dominated
from flashnas.study.config import SearchConfig
from flashnas.study.loop import run_search
from flashnas.study.problem import load_problem
from flashnas.training.recipe import Recipe

BUDGET_MS = 85.0  # all depths of `tiny` meet it at some width, the deepest ones not at the largest


@pytest.fixture(scope="module")
def recipe(quick_recipe):
    return Recipe.load(quick_recipe)


@pytest.fixture(scope="module")
def dataset(small_corpus, recipe):
    return prepare_dataset(str(small_corpus), recipe)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, recipe, dataset):
    """40 networks of `tiny` with made-up losses that no training of a few steps reaches."""
    return write_bench(
        tmp_path_factory.mktemp("bench") / "synthetic",
        recipe,
        dataset=dataset.digest,
        vocab=dataset.vocab,
        count=40,
    )


@pytest.fixture(scope="module")
def config(small_corpus, quick_recipe, bench):
    return SearchConfig(
        space="tiny",
        table="h100_sxm",
        workload="chat",
        calibration="paper",
        budgets={"latency_ms": BUDGET_MS},
        trials=4,
        rank_by="short",
        cycle_size=2,
        workers=1,
        recipe=str(quick_recipe),
        data=str(small_corpus),
        baselines=False,
        measure=False,
        bench_table=str(bench.path),
    )


def searched(config, out, resume=False):
    progress = Notes()
    summary = run_search(config, out, resume=resume, progress=progress)
    return RecordedRun.load(out), summary, progress.last


@pytest.mark.slow
def test_a_score_of_a_bench_is_the_one_that_a_search_would_compute(
    config, recipe, dataset, tmp_path
):
    rows = []
    for made_up in made_up_trainings(recipe, vocab=dataset.vocab, count=2):
        network, proxy = (Architecture.parse(made_up[name]) for name in ("architecture", "proxy"))
        job = Job(architecture=proxy, dataset=str(dataset.folder), recipe=recipe.to_dict(), seed=0)
        rows.append(row("tiny", network, proxy, 0, run_job(job)))
    write(tmp_path / "trained", header(recipe, dataset=dataset.digest, vocab=dataset.vocab), rows)
    question = load_problem(
        dataclasses.replace(config, bench_table=str(tmp_path / "trained"), budgets={}), note=print
    )
    known = question.scored_networks()
    assert len(known) == 2
    for _, network, _ in known:
        answered, computed = question.scores.score(network), run_job(question.job(network))
        for name in (
            "loss",
            "bits_per_byte",
            "curve",
            "tokens",
            "seed",
            "proxy_params",
            "backends",
        ):
            assert answered[name] == computed[name], name


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A finished search with two workers: its run, summary and last snapshot."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return searched(dataclasses.replace(config, workers=2), out)


def test_a_search_starts_from_the_networks_of_its_space_within_the_budget(finished, bench):
    run, summary, snapshot = finished
    known = run.trials[run.trials["source"] == "bench"]
    frame = bench.frame.set_index("architecture")
    model = LatencyModel("h100_sxm", "chat", calibration="paper")
    within = frame[
        model.latencies([Architecture.parse(notation) for notation in frame.index]) <= BUDGET_MS
    ]
    assert 10 < len(within) < len(frame)
    start = known[known["origin"] == "bench"]
    assert list(start["notation"]) == list(within.index)
    assert start["loss"].tolist() == within["loss"].tolist()
    assert list(start["number"]) == list(range(len(start)))
    assert set(start["label"]) == {"bench tiny"}
    assert (run.trials["latency_ms"] <= BUDGET_MS).all()
    trained = run.trials[run.trials["source"] == "training"]
    assert len(trained) == 4  # what is known does not count against the trials
    assert set(trained["origin"]) == {"search"}
    assert not set(trained["hash"]) & set(known["hash"])
    assert summary["tokens"] == trained["tokens"].sum() == 4 * 512
    assert (
        summary["from_bench"]
        == len(known)
        == run.entry("totals", "from_bench")
        == snapshot.from_bench
    )
    assert (snapshot.done, snapshot.total, snapshot.remaining_s) == (
        len(known) + 4,
        len(known) + 4,
        0.0,
    )
    assert run.entry("bench") == {
        "name": "synthetic",
        "networks": 40,
        "digest": run.entry("question", "bench"),
    }


def test_networks_of_the_bench_are_in_the_front_and_in_the_report(finished):
    run, _, _ = finished
    frame = run.trained
    mask = non_dominated(frame[["loss", "latency_ms"]].to_numpy(float))
    assert {entry.hash for entry in run.front} == set(frame[mask]["hash"])
    assert any(entry.label == "bench tiny" for entry in run.front)
    html, _ = write_report(run.path)
    assert "with the loss from it" in html.read_text()
    known = int((frame["source"] == "bench").sum())
    assert counts_line(run).startswith(f"4 searched trained · {known} from a bench")


@pytest.mark.slow
def test_the_trajectory_is_the_same_with_one_worker_and_when_it_is_continued(
    finished, config, tmp_path, monkeypatch
):
    part, _, _ = searched(dataclasses.replace(config, trials=2), tmp_path / "run")
    assert len(part.trials) < len(finished[0].trials)
    journal = (tmp_path / "run" / "study.journal").read_bytes().count(b'"outcome"')
    run, _, _ = searched(config, tmp_path / "run", resume=True)
    changing = ["tokens_per_s", "train_seconds"]
    pd.testing.assert_frame_equal(
        run.trials.drop(columns=changing), finished[0].trials.drop(columns=changing)
    )
    assert (tmp_path / "run" / "study.journal").read_bytes().count(b'"outcome"') == journal + 2


def test_another_bench_or_none_does_not_continue_the_run(
    finished, config, dataset, recipe, tmp_path
):
    fewer = write_bench(
        tmp_path / "fewer", recipe, dataset=dataset.digest, vocab=dataset.vocab, count=39
    )
    for changes, words in (
        ({"bench_table": str(fewer.path)}, "the scores of the bench are others than then"),
        ({"bench_table": None, "bench": False}, "but this search asks None"),
    ):
        asked = dataclasses.replace(config, **changes)
        message = one_line(RunError, searched, asked, finished[0].path, resume=True)
        assert "question.bench is" in message
        assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 1024}, "recipe.tokens is 512 in the bench and 1024 in this search"),
        ({"seed": 3}, "it has no training under seed 3"),
    ],
)
def test_a_named_bench_that_answers_nothing_is_one_line(changes, words, config, bench):
    assert (
        one_line(BenchError, load_problem, dataclasses.replace(config, **changes), note=print)
        == f"bench {bench.path}: answers nothing in this search: {words}"
    )


def test_a_shipped_bench_that_does_not_match_is_a_line_of_the_plan_and_nothing_else(
    config, bench, monkeypatch
):
    monkeypatch.setattr(
        "flashnas.bench.answers.shipped_benches", lambda: {str(bench.path): bench.path}
    )
    shipped = dataclasses.replace(config, bench_table=None)
    found = plan(shipped)
    assert found.known == len(load_problem(shipped, note=print).scored_networks()) > 10
    assert f"bench      synthetic: the search starts from {found.known} networks" in str(found)
    other = plan(dataclasses.replace(shipped, tokens=1024))
    assert (other.known, other.tokens) == (0, 4 * 1024)
    assert (
        "bench      not used; synthetic: recipe.tokens is 512 in the bench and 1024 in this search"
    ) in str(other)
    assert "bench" not in str(plan(dataclasses.replace(shipped, bench=False)))


def test_a_baseline_that_the_bench_knows_is_not_trained(config, bench, recipe, dataset, tmp_path):
    """Pure models are baselines of the space; the bench of this test has one of them."""
    question = load_problem(
        dataclasses.replace(config, baselines=True, bench=False, bench_table=None), note=print
    )
    label, network = next(one for one in question.baselines if one[1] is not None)
    proxy = recipe.proxy_of(network, dataset.vocab)
    write(
        tmp_path / "one",
        header(recipe, dataset=dataset.digest, vocab=dataset.vocab),
        [row("mine", network, proxy, 0, score(recipe, 1.5, 9))],
    )
    found = plan(dataclasses.replace(config, baselines=True, bench_table=str(tmp_path / "one")))
    without = plan(dataclasses.replace(config, baselines=True, bench_table=None, bench=False))
    assert (found.known, found.evaluations, found.candidates) == (1, without.evaluations - 1, 4)
    assert label in [entry["label"] for entry in found.baselines]


def test_a_recipe_with_fewer_operators_takes_the_networks_that_the_bench_trained(
    recipe, bench, dataset
):
    shallow = dataclasses.replace(recipe, depth_factor=2)
    plain, found = (
        answers(bench, one, dataset=dataset.digest, vocab=dataset.vocab, seed=0)
        for one in (recipe, shallow)
    )
    assert isinstance(found, Answers)
    network = plain.known[0].architecture
    twice = dataclasses.replace(
        network, operators=tuple(spec for spec in network.operators for _ in range(2))
    )
    assert found.score(twice) == plain.score(network) is not None
    assert plain.score(twice) is None
