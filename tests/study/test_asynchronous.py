"""Searches without cycles: no worker waits, nothing that ended is lost or done twice, and tokens add up."""

import itertools
import json
import os
import signal

import fault_driver
import forks
import numpy as np
import pandas as pd
import pytest
import slow_space
from foreign_space import Gpt2Space, WidthFittedGpt2Space, latency_ms
from notes import Notes
from test_fidelities import TRIALS, evaluator
from virtual_workers import VirtualWorkers

from flashnas.base.errors import RunError
from flashnas.runs.run import RecordedRun
from flashnas.search import ALGORITHMS, SearchAlgorithm
from flashnas.study.config import SearchConfig
from flashnas.study.proposer import Proposer
from flashnas.study.search import run_search

WORKERS = 4


def took(job):
    """Between 1 and 16 seconds for a full evaluation, by the network."""
    return 2.0 ** (sum(map(ord, job.architecture.hash)) % 5) * ((job.pause_tokens or 8) / 8)


@pytest.fixture
def workers(monkeypatch):
    """Sets how many virtual workers the next search has; returns them."""
    def use(count, took=took):
        pool = VirtualWorkers(count, took)
        monkeypatch.setattr("flashnas.study.search.executor_of", lambda question, note: pool)
        return pool
    return use


def search(out, evaluate, *, sampler="random", rungs=(2, 4), resume=False, space=None, **more):
    options = {"bayes": {"initial": 4}}.get(sampler, {})
    config = SearchConfig(**{"table": None, "trials": TRIALS, "cycle_size": 5, "seed": 1, "sampler": sampler,
                             "sampler_options": options, "rungs": rungs, "rung_chance": 0.2, "asynchronous": True,
                             "budgets": {"latency_ms": 60.0}, **more})
    progress = Notes()
    summary = run_search(config, out, resume=resume, progress=progress, evaluator=evaluate,
                         space=space or WidthFittedGpt2Space(), table=latency_ms)
    return summary, progress


def check_whole(out, summary, calls, *, trials=TRIALS):
    """Every evaluation was made once and is in a trial, and the tokens are those of the evaluations."""
    frame = RecordedRun.load(out).trials
    own = frame[frame["origin"] == "search"]
    assert own["state"].isin(["complete", "stopped", "failed"]).sum() == trials
    assert frame["number"].tolist() == list(range(len(frame)))
    placed = frame.loc[frame["state"].isin(["complete", "stopped", "failed"]), "hash"]
    assert placed.is_unique
    assert len(calls) == len(set(calls))
    assert {network for network, _ in calls} == set(placed)
    reached = pd.DataFrame(calls, columns=["hash", "fidelity"]).groupby("hash")["fidelity"].max()
    failed = set(frame.loc[frame["state"] == "failed", "hash"])
    assert summary["tokens"] == sum(tokens for network, tokens in reached.items() if network not in failed) + sum(
        max([fidelity for key, fidelity in calls if key == network][:-1], default=0) for network in failed)
    stopped = frame[frame["state"] == "stopped"]
    assert summary["tokens_saved"] == (8 - stopped["tokens"]).sum()
    assert stopped["loss"].isna().all()
    assert stopped["expected_loss"].notna().all()
    assert set(own.loc[own["state"] == "complete", "tokens"]) <= {8}
    return frame


@pytest.mark.parametrize(("sampler", "rungs"), [*((name, (2, 4)) for name in ALGORITHMS if name != "bayes"),
                                                ("random", ())])
def test_every_sampler_searches_without_cycles(tmp_path, workers, sampler, rungs):
    pool, calls = workers(WORKERS), []
    summary, progress = search(tmp_path / "run", evaluator(calls, failing=True), sampler=sampler, rungs=rungs)
    check_whole(tmp_path / "run", summary, calls)
    assert pool.most == WORKERS
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (summary["trials"]["stopped"] > 0) == bool(rungs)
    assert progress.last.paused == 0
    again, _ = search(tmp_path / "run", evaluator([], stop_after=0), sampler=sampler, rungs=rungs, resume=True)
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}


def test_no_worker_waits_for_the_slowest_of_a_cycle(tmp_path, workers):
    clocks = {}
    for asynchronous in (False, True):
        pool, busy = workers(5), []

        def timed(job, busy=busy):
            busy.append(took(job))
            return busy[-1]

        pool.took = timed
        search(tmp_path / str(asynchronous), evaluator([]), rungs=(), asynchronous=asynchronous, trials=70,
               space=Gpt2Space(), budgets={})
        clocks[asynchronous] = sum(busy) / (5 * pool.clock_s)
    assert clocks[True] > 0.85 > clocks[False] + 0.2


@pytest.mark.parametrize("stop_after", [0, 1, 9, 22])
@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_interrupted_anywhere_it_keeps_all_that_ended(tmp_path, workers, sampler, stop_after):
    calls, out = [], tmp_path / "run"
    workers(WORKERS)
    with pytest.raises(KeyboardInterrupt):
        search(out, evaluator(calls, stop_after=stop_after, failing=True), sampler=sampler)
    asked = [json.loads(line)["genotype"] for line in (out / "asked.jsonl").read_text().splitlines()]
    with open(out / "asked.jsonl", "a") as file:
        file.write('{"number": 99, "geno')  # as a killed process leaves it
    workers(WORKERS)
    summary, _ = search(out, evaluator(calls, failing=True), sampler=sampler, resume=True)
    frame = check_whole(out, summary, calls)
    genotypes = frame.loc[frame["origin"] == "search", "genotype"].tolist()
    assert all(genotype in genotypes for genotype in asked)


def test_a_continued_search_tells_its_sampler_what_publications_say(tmp_path, workers, monkeypatch):
    told = []
    monkeypatch.setattr(Proposer, "prior", lambda self: "prior")
    monkeypatch.setattr(SearchAlgorithm, "use_prior", lambda self, prior: told.append(prior))
    workers(WORKERS)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", evaluator([], stop_after=5))
    search(tmp_path / "run", evaluator([]), resume=True)
    assert told == ["prior", "prior"]


def test_an_exhausted_space_ends(tmp_path, workers):
    workers(WORKERS)
    calls = []
    summary, _ = search(tmp_path / "run", evaluator(calls), trials=500)
    check_whole(tmp_path / "run", summary, calls, trials=24 - 2)  # genotypes of one width, without the two baselines
    assert summary["trials"]["reused"] > 0


def test_a_paused_candidate_is_promoted_when_its_chance_grows(tmp_path, workers, monkeypatch):
    """Nobody but the best of five passes a rung before twelve candidates have ended; then all do."""
    from flashnas.study import loop

    decide = loop.decide

    def late(paused, costs, **options):
        pause = decide(paused, costs, **options)
        pause.promoted[:] = len(told) >= 12
        return pause

    told = []
    corrected = []
    monkeypatch.setattr(loop, "decide", late)
    workers(WORKERS)
    algorithm = ALGORITHMS["aging-evolution"]
    learn, correct = algorithm._learn, algorithm.correct
    monkeypatch.setattr(algorithm, "_learn", lambda self, one: (told.append(one), learn(self, one))[1])
    monkeypatch.setattr(algorithm, "correct", lambda self, one: (corrected.append(one), correct(self, one))[1])
    calls = []
    summary, progress = search(tmp_path / "run", evaluator(calls), sampler="aging-evolution")
    frame = check_whole(tmp_path / "run", summary, calls)
    assert summary["trials"]["stopped"] == summary["tokens_saved"] == 0
    assert progress.last.stopped == progress.last.paused == 0
    final = {one.architecture.hash: one.loss for one in [*told, *corrected]}
    assert len({one.architecture.hash for one in corrected}) >= 8
    done = frame[frame["origin"] == "search"]
    assert {row.hash: row.loss for row in done.itertuples()} == final


def test_what_is_lost_is_said(pages, tmp_path, workers):
    from flashnas.report import write_report

    workers(2)
    search(tmp_path / "run", evaluator([]), trials=3)
    run = RecordedRun.load(tmp_path / "run")
    assert run.entry("trajectory") == ("depends on when workers finish (asynchronous); the same seed gives other"
                                       " candidates")
    assert run.entry("question", "asynchronous") is True
    html, _ = write_report(tmp_path / "run")
    assert "depends on when workers finish" in html.read_text()
    with pytest.raises(RunError, match=r"question\.asynchronous is True, but this search asks None"):
        search(tmp_path / "run", evaluator([]), trials=3, asynchronous=False, resume=True)
    search(tmp_path / "cycles", evaluator([]), trials=3, asynchronous=False)
    assert RecordedRun.load(tmp_path / "cycles").entry("trajectory") == "fixed by the seed, for any number of workers"
    assert "asynchronous" not in RecordedRun.load(tmp_path / "cycles").entry("question")


def test_a_damaged_list_of_candidates_is_one_line(tmp_path, workers):
    out = tmp_path / "run"
    workers(2)
    search(out, evaluator([]), trials=6)
    lines = (out / "asked.jsonl").read_text().splitlines(keepends=True)
    for damage, words in ((lambda: ["{}\n", *lines[1:]], r"asked\.jsonl:1: proposal needs the key 'number'; restore"),
                          (lambda: lines[:-2], r"asked\.jsonl: lacks [12] of the \d+ networks .* holds; restore it")):
        (out / "asked.jsonl").write_text("".join(damage()))
        with pytest.raises(RunError, match=words):
            search(out, evaluator([]), trials=7, resume=True)


# -- with processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments_nothing_that_ended_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SLOW_S", "0.1")
    out, rng = tmp_path / "run", np.random.default_rng(0)
    known: set[str] = set()
    for attempt in itertools.count():
        process = forks.start(_run, str(out), dict(os.environ))
        process.join(None if attempt == 5 else float(rng.uniform(0.7, 2.0)))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        elif attempt == 5:
            assert process.exitcode == 0
            break
        ended = _ended(out)
        assert known <= ended
        known = ended
    frame = RecordedRun.load(out).trials
    assert known <= set(frame["hash"])
    counts = pd.Series([notation for notation, _ in slow_space.calls(tmp_path / "calls")]).value_counts()
    assert (frame["state"] == "complete").sum() == 24
    assert counts.sum() <= 24 + 5 * 2  # two workers: at most what ran when the search was killed


def _run(out, environment):
    os.environ.update(environment)
    fault_driver.run(out, 2, trials=24, asynchronous=True)


def _ended(out):
    journal = out / "study.journal"
    if not journal.exists():
        return set()
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return {line["user_attrs"]["hash"] for line in lines if "hash" in line.get("user_attrs", {})}
