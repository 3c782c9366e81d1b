"""A search that starts from an earlier run: what that run scored is not evaluated, and everything
else stays as it was.
"""

import dataclasses

import pandas as pd
import pytest
from made_up_trainings import make_up
from notes import Notes, trajectory

from flashnas.architecture import Architecture
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.space import load_space
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.run_search import run_search
from flashnas.study.scorer import EvidenceScorer

BUDGET_MS = 85.0  # the deepest networks of `tiny` meet it, but not at the largest width
ASKED = SearchConfig(
    space="tiny",
    table="h100_sxm",
    workload="chat",
    calibration="paper",
    budgets={"latency_ms": BUDGET_MS},
    cycle_size=2,
    sampler="aging-evolution",
    sampler_options={"population": 10, "tournament": 5},
    workers=1,
    baselines=False,
    measure=False,
)


def loss(network):
    """Falls with depth and width."""
    return 4.0 - 0.1 * len(network.operators) - network.hidden / 1000


def searched(config, out, resume=False):
    progress = Notes()
    found = run_search(config, out, resume=resume, progress=progress, evaluator=loss)
    return RecordedRun.load(out), found.summary, progress.last


def changed(**options):
    return dataclasses.replace(ASKED, **options)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """12 networks within a larger budget, and the baselines."""
    out = tmp_path_factory.mktemp("runs") / "earlier"
    return searched(changed(budgets={"latency_ms": 90.0}, trials=12, baselines=True), out)[0]


@pytest.fixture(scope="module")
def config(earlier):
    return changed(trials=4, start_from=(str(earlier.path),))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return searched(config, tmp_path_factory.mktemp("runs") / "whole")


def test_a_search_starts_from_the_networks_of_its_space_within_the_budget(finished, earlier):
    run, summary, snapshot = finished
    known = run.trials[run.trials["source"] == "run"]
    start = known[known["origin"] == "run"]
    networks = earlier.trained["notation"].map(Architecture.parse)
    own = earlier.trained[networks.map(load_space("tiny").contains)]
    within = own[own["latency_ms"] <= BUDGET_MS]
    assert 3 < len(within) < len(own) < len(networks)
    assert list(start["hash"]) == list(within["hash"])
    assert list(start["loss"]) == list(within["loss"])
    assert list(start["number"]) == list(range(len(start)))
    assert set(start["label"]) == {f"run {earlier.name}"}
    assert (run.trials["latency_ms"] <= BUDGET_MS).all()
    new = run.trials[run.trials["source"] == "evaluator"]
    assert len(new) == 4  # what is known does not count against the trials
    assert not set(new["hash"]) & set(known["hash"])
    assert summary["known"] == len(known) == run.entry("totals", "known") == snapshot.known
    assert snapshot.done == snapshot.total == len(known) + 4
    assert run.entry("start_from", "networks") == len(set(earlier.trained["hash"]))


def test_the_trajectory_is_the_same_when_it_is_continued(finished, config, tmp_path):
    part, _, _ = searched(dataclasses.replace(config, trials=2), tmp_path / "run")
    assert len(part.trials) < len(finished[0].trials)
    run, _, _ = searched(config, tmp_path / "run", resume=True)
    pd.testing.assert_frame_equal(trajectory(run.path), trajectory(finished[0].path))


# -- of trainings, by any recipe -------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(small_corpus, quick_recipe, tmp_path_factory):
    """The options of a search that trains each proposal, and its run."""
    config = changed(
        evidence="none", trials=3, recipe=str(quick_recipe), data=str(small_corpus), baselines=True
    )
    out = tmp_path_factory.mktemp("runs") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch, loss)
        run_search(config, out, resume=False, progress=Notes())
    return config, RecordedRun.load(out)


def test_scores_of_the_same_recipe_are_reused_and_those_of_another_one_count(
    trained, tmp_path, monkeypatch
):
    config, run = trained
    found, counted, informed_by = {}, [], EvidenceScorer.informed_by

    def informed(scorer, bought):
        counted.append([*scorer.own, *bought])
        return informed_by(scorer, bought)

    monkeypatch.setattr(EvidenceScorer, "informed_by", informed)
    for name, tokens in (("same", None), ("other", 1024)):
        asked = dataclasses.replace(config, tokens=tokens, start_from=(str(run.path),), trials=2)
        problem = load_problem(asked)
        assert len(problem.scorer.own) == len(set(run.trained["hash"]))
        calls = make_up(monkeypatch, loss)
        run_search(asked, tmp_path / name, resume=False, progress=Notes())
        found[name] = RecordedRun.load(tmp_path / name)
        known = set(found[name].trained.query("source == 'run'")["hash"])
        assert not known & set(calls)
        assert (len(known) > 3) == (name == "same")
        assert sum(found[name].trained["origin"] == "search") == 2
    for rows in counted:
        trainings = {(row.group, row.specs, row.hidden) for row in rows}
        assert len(trainings) == len(rows), "none counts twice"
    baselines = set(run.baselines["hash"])
    assert baselines <= set(found["other"].trained.query("source == 'training'")["hash"])
