"""The cycles of a search with an evaluator in this process: every sampler, interrupted at every
point, with failures.
"""

import numpy as np
import pandas as pd
import pytest
from foreign_space import Gpt2Space, latency_ms, loss
from notes import Notes

from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.samplers import SAMPLERS
from flashnas.study.config import SearchConfig
from flashnas.study.run_search import run_search

TRIALS = 20


def evaluator(calls, *, stop_after=None, failing=False):
    """A closure, so that it runs in this process, which keeps the hashes of its networks."""

    def evaluate(network):
        if stop_after is not None and len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(network.hash)
        if failing and network.layers == 4 and network.heads == 2:
            raise RuntimeError("diverged")
        return loss(network) + 0.01 * np.sin(sum(map(ord, network.hash)))

    return evaluate


def search(out, evaluate, *, sampler="random", resume=False, trials=TRIALS, **more):
    options = {"bayes": {"initial": 4}}.get(sampler, {})
    config = SearchConfig(
        table=None,
        trials=trials,
        cycle_size=5,
        seed=1,
        sampler=sampler,
        sampler_options=options,
        **more,
    )
    progress = Notes()
    found = run_search(
        config,
        out,
        resume=resume,
        progress=progress,
        evaluator=evaluate,
        space=Gpt2Space(),
        table=latency_ms,
    )
    return found.summary, progress


def trajectory(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=["train_seconds"])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_finds_its_way_back_wherever_it_is_interrupted(sampler, tmp_path):
    calls = []
    summary, _ = search(tmp_path / "whole", evaluator(calls, failing=True), sampler=sampler)
    failed = summary["trials"]["failed"]
    assert summary["failures"] == ({"RuntimeError: diverged": failed} if failed else {})
    for stop_after in range(0, len(calls), 3 if sampler == "random" else 7):
        out, again = tmp_path / str(stop_after), []
        with pytest.raises(KeyboardInterrupt):
            search(out, evaluator(again, stop_after=stop_after, failing=True), sampler=sampler)
        search(out, evaluator(again, failing=True), sampler=sampler, resume=True)
        pd.testing.assert_frame_equal(trajectory(out), trajectory(tmp_path / "whole"))
        assert again == calls


def test_an_exhausted_space_ends_and_nothing_is_evaluated_twice(tmp_path):
    calls = []
    summary, progress = search(tmp_path / "run", evaluator(calls), trials=500)
    assert summary["trials"]["complete"] == 72
    assert len(calls) == len(set(calls)) == 72
    assert "the space has no more candidates within the budget" in progress.lines


def test_a_loss_of_exactly_zero_is_the_best(tmp_path):
    _, progress = search(tmp_path / "run", lambda network: float(network.layers - 2))
    assert progress.last.best_loss == 0.0
    assert min(entry.loss for entry in RecordedRun.load(tmp_path / "run").front) == 0.0


def test_an_evaluator_with_a_seed_is_called_with_that_of_the_search(tmp_path):
    seeds = set()

    def evaluate(network, *, seed):
        seeds.add(seed)
        return loss(network)

    search(tmp_path / "run", evaluate, trials=3)
    assert seeds == {1}
