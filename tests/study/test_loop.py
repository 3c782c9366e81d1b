"""The loop of a search: what it tries, that a seed fixes it, and that every search passes it."""

import dataclasses
import sys

import foreign_space
import numpy as np
import pytest
from made_up_trainings import make_up
from problems import problem_of

import flashnas as fn
from flashnas.base.errors import BudgetError, ConfigError
from flashnas.executors import Executor
from flashnas.samplers import SAMPLERS, Sampler
from flashnas.study import trainable
from flashnas.study.config import WINDOW_RECALL, SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.loop import search
from flashnas.study.problem import EVOLUTION, EXHAUSTIVE, proposer, sampler_of
from flashnas.study.trials import evenly_spread

FLOOR = -0.05


def found(seed=0, min_recall=FLOOR, **changes):
    problem = problem_of()
    config = dataclasses.replace(problem.config, seed=seed)
    return search(
        dataclasses.replace(problem, config=config, min_recall=min_recall, proposals=900, **changes)
    )


@pytest.fixture(scope="module")
def expected():
    return found()


def test_the_seed_alone_fixes_what_is_tried(expected):
    again, other = found(), found(seed=1)
    assert again.genotypes == expected.genotypes
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)
    assert other.genotypes != expected.genotypes


def test_all_is_within_the_limits_and_every_width_that_is_was_scored(expected):
    problem = problem_of()
    space, scorer = problem.space, problem.scorer
    assert 300 < len(expected.proposed) < 1200
    assert expected.looked_at == len(expected.proposed) * len(space.hidden_sizes)
    assert (expected.latency_ms <= 1500.0).all()
    networks = list(expected.networks)
    np.testing.assert_allclose(expected.value, scorer.values(networks), atol=2e-9)
    for genotype, indices in list(expected.proposed.items())[::20]:
        within = [
            network
            for network in space.architectures(genotype)
            if problem.costs.metrics(network)["latency_ms"] <= 1500.0
            and scorer.recalls([network])[0] >= FLOOR
        ]
        assert [networks[index] for index in indices] == within


def test_evolution_is_better_than_as_many_random_networks():
    problem = dataclasses.replace(problem_of("layerwise", 2000.0), proposals=900)
    assert proposer(problem).name == EVOLUTION
    evolved = search(problem)
    drawn = search(dataclasses.replace(problem, sampler=SAMPLERS["random"]))
    assert len(drawn.proposed) >= 900, "quiet cycles do not end it before"
    assert evolved.value[evolved.best] < drawn.value[drawn.best] - 0.002
    operators = evolved.networks[evolved.best].operators
    assert operators == evenly_spread(operators), "evidence knows nothing of their order"


def test_a_higher_floor_leaves_networks_out_and_one_that_nothing_reaches_is_one_line():
    scorer = problem_of().scorer
    assert (scorer.recalls(found(min_recall=-0.02).networks) >= -0.02).all()
    assert (scorer.recalls(found(min_recall=None).networks) < FLOOR).any()
    with pytest.raises(BudgetError, match=r"none of [\d,]+ networks .* recall of 0\.9 or more"):
        found(min_recall=0.9)


def test_windows_that_forget_are_left_out_unless_asked_for():
    config = SearchConfig(space="ministral", budgets={"latency_ms": 9000.0}, params="0.5B..1B")
    usual, every = (
        search(load_problem(dataclasses.replace(config, min_recall=floor))) for floor in (None, -1)
    )
    recalls = every.scorer.recalls(every.networks)
    assert len(usual) == (recalls >= WINDOW_RECALL).sum() < len(every)
    assert {each.window for each in every.genotypes} == {128, 512, 1024, 4096}
    assert load_problem(dataclasses.replace(config, space="granite")).min_recall is None


def test_a_small_space_is_listed_and_its_best_is_that_of_all(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "template: layerwise\nwidths: [1024, 1536, 2048]\n"
        "layers: {depth: [2, 6], choices: [m2 f, a f, d f]}\n"
    )
    problem = problem_of(str(path), 700.0)
    assert proposer(problem).name == EXHAUSTIVE
    trials = search(problem)
    genotypes = list(problem.space.enumerate())
    assert list(trials.proposed) == genotypes
    networks, _ = problem.space.networks(genotypes)
    assert trials.looked_at == len(networks) == 3 * sum(3**n for n in range(2, 7))
    within = [network for network in networks if problem.fitter.within([network])[0]]
    assert list(trials.networks) == within
    lowest = problem.scorer.values(within).min()
    assert trials.value[trials.best] == pytest.approx(lowest, abs=5e-4)


@pytest.mark.parametrize("sampler", ["random", "nsga2", "aging-evolution"])
def test_a_sampler_that_is_named_proposes(sampler):
    problem = dataclasses.replace(problem_of("tiny", 1e6), sampler=SAMPLERS[sampler], proposals=200)
    trials = search(problem)
    assert sampler_of(problem).name == sampler
    assert 200 <= len(trials.proposed) < 450


def test_samplers_that_cannot_serve_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"tpe fits a model .* up to 500 proposals; this"):
        sampler_of(dataclasses.replace(problem_of(), sampler=SAMPLERS["tpe"], proposals=9_000))
    for proposals in (100, 9_000):
        problem = dataclasses.replace(
            problem_of("tiny", 1e6), sampler=SAMPLERS["bayes"], proposals=proposals
        )
        with pytest.raises(ConfigError, match=r"bayes chooses what is trained .* give --trials N"):
            sampler_of(problem)
    with pytest.raises(
        ConfigError, match=r"exhaustive lists spaces of up to .*; space 'layerwise'"
    ):
        sampler_of(dataclasses.replace(problem_of("layerwise"), sampler=SAMPLERS["exhaustive"]))


def test_a_search_needs_no_folder(monkeypatch, small_corpus, quick_recipe):
    asked = {"trials": 3, "cycle_size": 2, "recipe": str(quick_recipe), "data": str(small_corpus)}
    problem = load_problem(SearchConfig(space="tiny", workload="chat", **asked, workers=1))
    calls = make_up(monkeypatch, foreign_space.of_architecture)
    executor = trainable.executor_of()
    trials = search(problem, executor)
    trained = [trials.networks[index].hash for index in trials.results]
    assert (trained, len(calls)) == (calls, 3)
    assert {fields["state"] for fields in trials.results.values()} == {"complete"}
    assert trials.scorer.trained
    assert problem.scorer.values(list(trials.networks[:3])).tolist() != trials.value[:3].tolist()


# -- every search passes the same lines ------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch):
    """(function, what was called, line) of each call of `tell` and `run`."""
    passed = set()

    def watched(kind, name):
        own = getattr(kind, name)

        def call(self, *args, **more):
            frame = sys._getframe(1)
            passed.add((frame.f_code.co_qualname, name, frame.f_lineno))
            return own(self, *args, **more)

        monkeypatch.setattr(kind, name, call)

    watched(Sampler, "tell")
    watched(Executor, "run")
    return passed


ASKED = {"space": "tiny", "workload": "chat", "budget_ms": 450, "measure": False}
EVALUATED = {"trials": 3, "evaluator": foreign_space.of_architecture, "workers": 1}
SEARCHES = {
    "published": {},
    "trainings": {"trials": 2, "tokens": 64},
    "none": {"trials": 2, "evidence": "none", "tokens": 64, "sampler": "aging-evolution"},
    "evaluator": EVALUATED,
    "start_from": EVALUATED,
    "as_good_as": {"space": "granite", "as_good_as": "Llama-3.2-1B", "budget_ms": 20_000},
    "workers": {**EVALUATED, "workers": 2},
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "workers")) for kind in SEARCHES],
)
@pytest.mark.usefixtures("importable_helpers")
def test_every_search_passes_the_same_lines(
    kind, lines, tmp_path, small_corpus, quick_recipe, monkeypatch
):
    more = dict(SEARCHES[kind])
    if "tokens" in more:
        make_up(monkeypatch, foreign_space.of_architecture)
        more |= {"data": str(small_corpus), "recipe": str(quick_recipe)}
    if kind == "start_from":
        fn.search(**{**ASKED, **more}, out=tmp_path / "earlier")
        more["start_from"] = [str(tmp_path / "earlier")]
    run = fn.search(**{**ASKED, **more}, out=tmp_path / "run")
    assert {function for function, *_ in lines} == {"search"}
    told = sorted(line for _, name, line in lines if name == "tell")
    ran = {line for _, name, line in lines if name == "run"}
    assert len(ran) == ("trials" in more)
    assert set(told) <= {told[0], told[-1]}, (
        "proposals that are scored, and those that were trained"
    )
    assert run.front
