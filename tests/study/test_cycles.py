"""The cycles of a search with an evaluator in this process: every sampler, interrupted at every
point, with failures.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from foreign_space import Gpt2, Gpt2Space, latency_ms, loss
from notes import Notes, trajectory
from one_line import one_line

from flashnas.base.errors import ConfigError
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.samplers import SAMPLERS
from flashnas.study.config import SearchConfig
from flashnas.study.run_search import run_search

TRIALS = 20
STARTS = {  # whatever the number of trials
    "aging-evolution": {"population": 7, "tournament": 3},
    "nsga2": {"population": 7},
    "tpe": {"startup": 7},
    "bayes": {"initial": 4},
}


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


def search(out, evaluate, *, sampler="random", resume=False, trials=TRIALS, space=None, **more):
    options = STARTS.get(sampler, {})
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
        space=space or Gpt2Space(),
        table=latency_ms,
    )
    return found.summary, progress


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


@pytest.mark.slow
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_run_that_goes_on_with_more_trials_is_that_which_had_them_at_once(sampler, tmp_path):
    whole, more = [], []
    search(tmp_path / "whole", evaluator(whole), sampler=sampler, trials=23)
    for trials in (3, 12, 23):
        search(tmp_path / "more", evaluator(more), sampler=sampler, trials=trials, resume=True)
        assert len(more) == trials
    assert more == whole
    pd.testing.assert_frame_equal(trajectory(tmp_path / "more"), trajectory(tmp_path / "whole"))


def test_a_run_that_goes_on_trains_all_of_a_space_and_never_fewer_than_before(tmp_path):
    calls = []
    search(tmp_path / "run", evaluator(calls), trials=3)
    _, progress = search(tmp_path / "run", evaluator(calls), trials=100, resume=True)
    assert len(calls) == len(set(calls)) == 72
    assert "the space has no more candidates within the budget" in progress.lines
    message = one_line(
        ConfigError, search, tmp_path / "run", evaluator(calls), trials=71, resume=True
    )
    assert message == (
        f"search.trials must be at least 72, as many as {tmp_path / 'run'} has trained; got 71"
    )


class Hidden(Gpt2Space):
    """Of more genotypes than a sampler lists, of which it draws none of the least width."""

    def size(self):
        return 10_000

    def sample(self, rng):
        return dataclasses.replace(super().sample(rng), width=128)

    def mutate(self, genotype, rng):
        return genotype


@pytest.mark.parametrize("sampler", ["random", "aging-evolution", "bayes"])
def test_what_is_within_the_budget_is_trained_although_the_sampler_does_not_find_it(
    sampler, tmp_path
):
    calls, limit = [], latency_ms(Gpt2(64, 2, 2, 2))
    summary, progress = search(
        tmp_path / "run",
        evaluator(calls),
        sampler=sampler,
        budgets={"latency_ms": limit},
        space=Hidden(),
    )
    assert calls == [entry["hash"] for entry in summary["front"]] == ["64-2-2-2"]
    assert "the space has no more candidates within the budget" in progress.lines


class Folded(Gpt2Space):
    """Genotypes of which three build one network each."""

    def architectures(self, genotype):
        return [dataclasses.replace(genotype, heads=2)]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_network_that_several_genotypes_build_is_one(sampler, tmp_path):
    calls = []
    summary, _ = search(tmp_path / "run", evaluator(calls), sampler=sampler, space=Folded())
    assert len(calls) == len(set(calls)) == TRIALS
    front = [entry["hash"] for entry in summary["front"]]
    assert len(front) == len(set(front))


def test_a_score_is_not_named_as_a_column_is(tmp_path):
    def evaluate(network):
        return {"loss": loss(network), "hidden": 3.0}

    message = one_line(ConfigError, search, tmp_path / "run", evaluate)
    assert message.startswith("the evaluator returned 'hidden', which is a column of trials.par")


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
