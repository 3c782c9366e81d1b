"""Rungs with an evaluator of the user's, in this process: every sampler, interrupted at every point, with failures."""

import numpy as np
import pandas as pd
import pytest
from foreign_space import Gpt2Space, latency_ms, loss
from notes import Notes
from plans import plan

from flashnas.base.errors import ConfigError
from flashnas.report.words import tokens_words
from flashnas.runs.run import RecordedRun
from flashnas.search import ALGORITHMS
from flashnas.search.pareto import hypervolume, non_dominated
from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search

FIDELITIES = (1, 2, 4, 8)
TRIALS = 20


def evaluator(calls, *, stop_after=None, failing=False):
    """Losses that fall with the fidelity, faster for deep networks; a closure, so that it runs in this process."""
    def evaluate(network, fidelity):
        if stop_after is not None and len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append((network.hash, fidelity))
        if failing and network.layers == 4 and fidelity == (2 if network.heads == 2 else 8):
            raise RuntimeError(f"diverged at {fidelity}")
        wobble = 0.01 * np.sin(sum(map(ord, network.hash)) * fidelity)
        return loss(network) + (0.4 + 0.02 * network.layers) * (8 / fidelity - 1) + wobble * (8 - fidelity)
    evaluate.fidelities = FIDELITIES
    return evaluate


def search(out, evaluate, *, sampler="random", rungs=(2, 4), chance=0.05, resume=False, trials=TRIALS, **more):
    options = {"bayes": {"initial": 4}}.get(sampler, {})
    config = SearchConfig(table=None, trials=trials, cycle_size=5, seed=1, sampler=sampler, sampler_options=options,
                          rungs=rungs, rung_chance=chance, **more)
    progress = Notes()
    summary = run_search(config, out, resume=resume, progress=progress, evaluator=evaluate, space=Gpt2Space(),
                         table=latency_ms)
    return summary, progress


def trajectory(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=["train_seconds"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, calls = tmp_path_factory.mktemp("finished") / "run", []
    return out, calls, *search(out, evaluator(calls))


def test_stopped_candidates_are_cheap_and_the_front_is_that_of_full_evaluations(finished, tmp_path):
    out, calls, summary, progress = finished
    whole, _ = search(tmp_path / "whole", evaluator([]), rungs=())
    frame, full = RecordedRun.load(out).trials, RecordedRun.load(tmp_path / "whole").trials
    assert frame["hash"].tolist() == full["hash"].tolist()
    done = frame["state"] == "complete"
    assert frame.loc[done, "loss"].tolist() == full.loc[done, "loss"].tolist()
    assert summary["trials"]["stopped"] == progress.last.stopped == (frame["state"] == "stopped").sum() >= 3
    assert progress.last.done + progress.last.stopped == progress.last.total == TRIALS
    assert progress.last.paused == 0
    assert max(snapshot.paused for snapshot in progress.snapshots) == 5
    points, every = (part[["loss", "latency_ms"]].to_numpy() for part in (frame[done], full))
    corner = every.max(axis=0) * 1.01
    assert hypervolume(points, corner) >= 0.99 * hypervolume(every, corner)
    assert {entry["hash"] for entry in summary["front"]} == set(frame[done]["hash"][non_dominated(points)])
    assert len(calls) == len(set(calls))
    reached = pd.DataFrame(calls, columns=["hash", "fidelity"]).groupby("hash")["fidelity"].max()
    assert summary["tokens"] == reached.sum() == frame.loc[frame["state"] != "reused", "tokens"].sum()
    assert summary["tokens"] + summary["tokens_saved"] == whole["tokens"] == 8 * TRIALS
    assert tokens_words(RecordedRun.load(out)) == (
        f"evaluated {summary['tokens']:,} of the evaluator's units; {summary['tokens_saved']:,} saved by rungs,"
        f" at which {summary['trials']['stopped']} trainings stopped")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", list(ALGORITHMS))
def test_every_sampler_finds_its_way_back_wherever_it_is_interrupted(sampler, tmp_path):
    calls = []
    summary, _ = search(tmp_path / "whole", evaluator(calls, failing=True), sampler=sampler)
    assert summary["trials"]["stopped"] > 0
    points = range(0, len(calls), 3 if sampler == "random" else 13)
    for stop_after in points:
        out, again = tmp_path / str(stop_after), []
        with pytest.raises(KeyboardInterrupt):
            search(out, evaluator(again, stop_after=stop_after, failing=True), sampler=sampler)
        search(out, evaluator(again, failing=True), sampler=sampler, resume=True)
        pd.testing.assert_frame_equal(trajectory(out), trajectory(tmp_path / "whole"))
        assert sorted(again) == sorted(calls)


def test_a_failure_at_a_rung_and_one_at_the_end_are_failed_trials(tmp_path):
    calls = []
    summary, _ = search(tmp_path / "run", evaluator(calls, failing=True), chance=0.001)
    assert set(summary["failures"]) == {"RuntimeError: diverged at 2", "RuntimeError: diverged at 8"}
    assert sum(summary["trials"][state] for state in ("complete", "stopped", "failed")) == TRIALS
    # what failed at the end counts up to its last rung
    frame = RecordedRun.load(tmp_path / "run").trials
    late = (frame["reason"] == "RuntimeError: diverged at 8").sum()
    assert summary["tokens"] == frame["tokens"].sum() + 4 * late


def test_a_longer_search_goes_on_from_a_shorter_one(finished, tmp_path):
    calls = []
    search(tmp_path / "run", evaluator(calls), trials=10)
    search(tmp_path / "run", evaluator(calls), resume=True)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), trajectory(finished[0]))
    assert sorted(calls) == sorted(finished[1])


def test_an_exhausted_space_ends_and_nothing_is_evaluated_twice(tmp_path):
    calls = []
    summary, _ = search(tmp_path / "run", evaluator(calls), trials=500, chance=0.3)
    assert summary["trials"]["complete"] + summary["trials"]["stopped"] == 72
    assert summary["trials"]["stopped"] > 30
    assert len(calls) == len(set(calls))


def seeded(calls):
    plain = evaluator([])

    def evaluate(network, fidelity, *, seed):
        calls.append((network.hash, fidelity, seed))
        return plain(network, fidelity) + 0.05 * np.sin(sum(map(ord, network.hash)) * seed)

    evaluate.fidelities = FIDELITIES
    return evaluate


def test_an_evaluator_with_a_seed_confirms_the_front_under_three(tmp_path):
    calls, again = [], []
    summary, _ = search(tmp_path / "run", seeded(calls))
    assert len(calls) == len(set(calls))
    run = RecordedRun.load(tmp_path / "run")
    members = {entry.hash for entry in run.front}
    further = [(key, number) for key, fidelity, number in calls if number > 1 and fidelity == 8]
    assert len(further) == sum(number > 1 for _, _, number in calls)
    assert {(key, number) for key in members for number in (2, 3)} <= set(further)
    assert all(entry.figures["seeds"] == 3 for entry in run.front)
    assert summary["tokens_seeds"] == 8 * sum(number > 1 for _, _, number in calls)
    again_summary, _ = search(tmp_path / "run", seeded(again), resume=True)
    assert ({**again_summary, "seconds": 0}, again) == ({**summary, "seconds": 0}, [])
    search(tmp_path / "one", seeded(again), seeds=1)
    assert {number for _, _, number in again} == {1}


@pytest.mark.parametrize("rungs", [(2, 4), ()])
def test_an_evaluator_without_a_seed_keeps_to_one_and_the_plan_says_why(tmp_path, rungs):
    config = SearchConfig(table=None, rungs=rungs)
    found = plan(config, evaluator=evaluator([]), space=Gpt2Space(), table=latency_ms)
    why = "seeds      1 for each network of the front: the evaluator has no argument 'seed'"
    assert (found.seeds, why in str(found)) == (1, bool(rungs))
    able = plan(config, evaluator=seeded([]), space=Gpt2Space(), table=latency_ms)
    assert (able.seeds, "seeds      3 for" in str(able), able.seeds_why) == (3 if rungs else 1, bool(rungs), "")
    with pytest.raises(ConfigError, match=r"^search\.seeds above 1 needs an evaluator with an argument 'seed'; got 2"
                                          r" and test_fidelities:evaluator"):
        search(tmp_path / "run", evaluator([]), rungs=rungs, seeds=2)


def test_without_rungs_an_evaluator_with_fidelities_is_asked_for_full_evaluations(tmp_path):
    calls = []
    search(tmp_path / "run", evaluator(calls), rungs=())
    assert {fidelity for _, fidelity in calls} == {8}


@pytest.mark.parametrize(("fidelities", "rungs", "rule"), [
    (None, (2,), r"^search\.rungs needs an evaluator with the attribute 'fidelities'"),
    ((4, 2), (2,), r"fidelities must be increasing whole numbers above 0; got \(4, 2\)"),
    ((0, 2), (), r"fidelities must be increasing whole numbers above 0; got \(0, 2\)"),
    ("1,2", (), r"fidelities must be increasing whole numbers above 0; got '1,2'"),
    ((1, 2), (2,), r"points of the evaluator's fidelities before its end at 2 tokens \(1\); got 2"),
    ((1, 2), ("auto",), r"auto needs a point of the evaluator's fidelities before its end, at 2 tokens or later"),
])
def test_wrong_fidelities_are_one_line(tmp_path, fidelities, rungs, rule):
    def evaluate(network, fidelity=None):
        return 1.0

    if fidelities is not None:
        evaluate.fidelities = fidelities
    with pytest.raises(ConfigError, match=rule):
        search(tmp_path / "run", evaluate, rungs=rungs)
    assert not (tmp_path / "run").exists()


def test_rungs_need_metrics_before_the_evaluation(tmp_path):
    with pytest.raises(ConfigError, match=r"^search\.rungs needs metrics before the evaluation: give table=FUNCTION"):
        run_search(SearchConfig(table=None, rungs=(2,)), tmp_path / "run", resume=False, progress=Notes(),
                   evaluator=evaluator([]), space=Gpt2Space())
