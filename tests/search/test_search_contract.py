"""What every search algorithm must do. A new algorithm joins SETTINGS; one that is registered and missing fails."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pytest

from flashnas.base.errors import ConfigError
from flashnas.search import ALGORITHMS, Evaluation, Goals, algorithm_options, make_algorithm
from flashnas.space import load_space

SETTINGS: dict[str, dict[str, Any]] = {  # options that make tens of candidates enough
    "aging-evolution": {"population": 10, "tournament": 4},
    "nsga2": {"population": 8},
    "tpe": {"startup": 8},
    "random": {},
    "bayes": {"initial": 8, "pool": 64},
}
GOALS = {"two objectives": False, "three objectives": True}
LEARNS = {"aging-evolution": 25, "bayes": 7}  # must beat random on an easy surface, medians over so many seeds
CYCLE = 6


@pytest.fixture(params=list(ALGORITHMS))
def name(request):
    if request.param not in SETTINGS:
        pytest.fail(f"algorithm {request.param!r} is registered but has no line in SETTINGS of this file")
    return request.param


@pytest.fixture(params=GOALS.values(), ids=list(GOALS))
def goals(request):
    """None for loss against latency; else loss, recall and latency, of which only the last is known."""
    return Goals((False, False, True), lambda architecture: (cost_of(architecture),)) if request.param else None


@pytest.fixture(scope="module")
def space():
    return load_space("tiny")


def test_the_settings_name_registered_algorithms_and_their_options():
    assert set(SETTINGS) <= set(ALGORITHMS)
    for algorithm, options in SETTINGS.items():
        assert set(options) <= set(algorithm_options(algorithm))


# -- a made-up world: latency from sizes, loss from operators ---------------------------------------------------------

COST_MS = {"d": 1.0, "a": 1.6, "m2": 1.2, "f": 0.5}
WORTH = {"d": 0.10, "a": 0.04, "m2": 0.06, "f": 0.03}


def fitter(space, budget_ms: float = 900.0) -> Callable[..., Any]:
    def latency_of(genotype):
        operators = space.operators(genotype)
        for hidden in reversed(space.hidden_sizes):
            latency_ms = hidden * sum(COST_MS[spec.kind] for spec in operators)
            if latency_ms <= budget_ms:
                return space.build(operators, hidden), latency_ms
        return None, latency_ms
    return latency_of


def loss_of(architecture) -> float:
    """More DeltaNet, more width and a mixed order are better; between about 4 and 6 nats."""
    kinds = [spec.kind for spec in architecture.operators]
    switches = sum(a != b for a, b in pairwise(kinds))
    return 6.0 - sum(WORTH[kind] for kind in kinds) - 0.01 * switches - 0.2 * np.log2(architecture.hidden / 64)


def cost_of(architecture) -> float:
    return architecture.hidden * sum(COST_MS[spec.kind] for spec in architecture.operators)


def values_of(architecture) -> tuple[float, float, float]:
    """Loss, negative recall (attention helps, up to 0.9) and latency."""
    attention = sum(spec.kind == "a" for spec in architecture.operators)
    return loss_of(architecture), -min(0.1 + 0.2 * attention, 0.9), cost_of(architecture)


def answer(genotype, latency_of, outcome: str = "complete") -> Evaluation:
    architecture, latency_ms = latency_of(genotype)
    if architecture is None or outcome == "infeasible":
        return Evaluation(genotype, None, False, None, None, False)
    if outcome == "failed":
        return Evaluation(genotype, architecture, True, None, latency_ms, True)
    return Evaluation(genotype, architecture, True, loss_of(architecture), latency_ms, False, values_of(architecture))


def make(name, space, seed=0, latency_of=None, goals=None):
    return make_algorithm(name, space=space, seed=seed, latency_of=latency_of or fitter(space), cycle_size=CYCLE,
                          goals=goals, **SETTINGS[name])


def run(algorithm, latency_of, cycles, outcomes=("complete",)):
    """All evaluations of some cycles; `outcomes` are dealt out in turn."""
    told = []
    for _ in range(cycles):
        cycle = [answer(g, latency_of, outcomes[(len(told) + i) % len(outcomes)])
                 for i, g in enumerate(algorithm.ask())]
        algorithm.tell(cycle)
        told += cycle
    return told


# -- the contract -----------------------------------------------------------------------------------------------------

def test_the_seed_fixes_the_trajectory(name, space, goals):
    mixed = ("complete", "complete", "failed", "complete", "infeasible")
    first, again, other = (run(make(name, space, seed, goals=goals), fitter(space), 5, mixed) for seed in (7, 7, 8))
    assert first == again
    assert [e.genotype for e in first] != [e.genotype for e in other]


def test_the_trajectory_ignores_global_random_state(name, space):
    first = run(make(name, space), fitter(space), 4)
    np.random.seed(123)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(123)
    assert run(make(name, space), fitter(space), 4) == first


def test_replay_continues_like_the_uninterrupted_run(name, space, goals):
    recorded = run(make(name, space, goals=goals), fitter(space), 6)
    resumed = make(name, space, goals=goals)
    for start in range(0, 4 * CYCLE, CYCLE):
        assert resumed.ask() == [e.genotype for e in recorded[start:start + CYCLE]]
        resumed.tell(recorded[start:start + CYCLE])
    assert run(resumed, fitter(space), 2) == recorded[4 * CYCLE:]


def test_candidates_are_valid_distinct_new_and_within_the_budget(name, space, goals):
    latency_of = fitter(space)
    told = run(make(name, space, goals=goals), latency_of, 6, ("complete", "complete", "failed"))
    assert len({e.genotype for e in told}) == len(told)
    for evaluation in told:
        assert evaluation.architecture is not None
        assert space.contains(evaluation.architecture)
        assert space.repair(evaluation.genotype) == evaluation.genotype


def test_a_cycle_size_is_the_default_and_any_number_may_be_asked(name, space):
    algorithm = make(name, space)
    assert len(algorithm.ask()) == CYCLE
    assert len(algorithm.ask(1)) == 1
    assert len(set(algorithm.pending)) == CYCLE + 1
    with pytest.raises(ConfigError, match="ask: n must be a whole number of at least 1; got 0"):
        algorithm.ask(0)


def test_part_of_a_cycle_may_be_told_before_more_is_asked(name, space, goals):
    latency_of, algorithm = fitter(space), make(name, space, goals=goals)
    run(algorithm, latency_of, 2)
    asked = algorithm.ask(5)
    algorithm.tell([answer(g, latency_of) for g in asked[:2]])
    more = algorithm.ask(4)
    assert list(algorithm.pending) == asked[2:] + more
    assert len(set(asked + more)) == 9
    algorithm.tell([answer(g, latency_of) for g in asked[2:] + more])
    assert len(algorithm.history) == 2 * CYCLE + 9
    assert len(algorithm.ask()) == CYCLE


@pytest.mark.parametrize("cycles", [1, 3])
def test_asking_for_fewer_gives_the_first_of_them(name, space, cycles):
    """So a run that stops in the middle of a cycle can be continued with more trials."""
    few, many = make(name, space), make(name, space)
    for algorithm in (few, many):
        run(algorithm, fitter(space), cycles)
    assert few.ask(3) == many.ask(7)[:3]


def test_telling_out_of_order_is_refused(name, space):
    algorithm = make(name, space)
    asked = algorithm.ask(2)
    with pytest.raises(ValueError, match="out of the order asked"):
        algorithm.tell([answer(asked[1], fitter(space))])


@pytest.mark.parametrize("outcome", ["failed", "infeasible"])
@pytest.mark.parametrize("before", [0, 2])
def test_cycles_that_give_nothing_do_not_stop_the_search(name, space, goals, outcome, before):
    algorithm, latency_of = make(name, space, goals=goals), fitter(space)
    run(algorithm, latency_of, before)
    lost = run(algorithm, latency_of, 3, (outcome,))
    after = run(algorithm, latency_of, 2)
    assert not any(e.complete for e in lost)
    assert all(e.complete for e in after)
    assert len({e.genotype for e in after}) == 2 * CYCLE


def test_one_complete_candidate_is_enough_to_go_on(name, space, goals):
    algorithm, latency_of = make(name, space, goals=goals), fitter(space)
    run(algorithm, latency_of, 3, ("complete", *["failed"] * 40))
    assert len(set(algorithm.ask())) == CYCLE


def test_equal_losses_do_not_stop_the_search(name, space, goals):
    algorithm, latency_of = make(name, space, goals=goals), fitter(space)
    for _ in range(4):
        algorithm.tell([Evaluation(g, latency_of(g)[0], True, 5.0, 100.0, values=(5.0, -0.5, 100.0))
                        for g in algorithm.ask()])
    assert len({e.genotype for e in algorithm.history}) == 4 * CYCLE


@pytest.mark.parametrize("latency_known", [True, False])
def test_a_budget_that_nothing_meets_still_gives_valid_candidates(name, space, latency_known):
    def latency_of(genotype):
        return None, fitter(space, 0.0)(genotype)[1] if latency_known else None

    algorithm = make(name, space, latency_of=latency_of)
    told = run(algorithm, latency_of, 3)
    assert not any(e.feasible for e in told)
    assert all(space.repair(e.genotype) == e.genotype for e in told)
    assert len(set(told[-CYCLE:])) == CYCLE


def test_the_search_improves_on_its_own_start(name, space):
    latency_of = fitter(space)
    started, ended = [], []
    for seed in range(3):
        losses = [e.loss for e in run(make(name, space, seed), latency_of, 8)]
        started.append(min(losses[:8]))
        ended.append(min(losses))
    assert median(ended) < median(started)


@pytest.mark.parametrize(("learner", "seeds"), LEARNS.items())
def test_learning_beats_random(learner, seeds, space):
    """Best of 48, medians over seeds, apart by over 3 standard errors of random's median (1.25 sd / root of seeds)."""
    latency_of = fitter(space)

    def best(algorithm: str) -> list[float]:
        return [min(e.loss for e in run(make(algorithm, space, seed), latency_of, 8)) for seed in range(seeds)]

    chance = best("random")
    assert median(best(learner)) < median(chance) - 3 * 1.25 * np.std(chance) / np.sqrt(seeds)


def test_goals_lead_elsewhere_than_the_loss_alone(space):
    """With recall among the goals the search finds networks of more recall than without, in the median of seeds."""
    latency_of, goals = fitter(space), Goals((False, False, True), lambda architecture: (cost_of(architecture),))

    def mean_recall(seed, chosen):
        return np.mean([-e.values[1] for e in run(make("bayes", space, seed, goals=chosen), latency_of, 5)[12:]])

    assert median(mean_recall(seed, goals) for seed in range(3)) > median(mean_recall(seed, None) for seed in range(3))


# -- the registry -----------------------------------------------------------------------------------------------------

def test_unknown_names_and_options_are_one_clear_line(space):
    shared = {"space": space, "seed": 0, "latency_of": fitter(space)}
    with pytest.raises(ConfigError) as unknown:
        make_algorithm("aging", **shared)
    assert str(unknown.value) == ("sampler must be one of aging-evolution, nsga2, tpe, random, bayes; got 'aging'"
                                  " (did you mean 'aging-evolution'?)")
    with pytest.raises(ConfigError) as option:
        make_algorithm("aging-evolution", populations=3, **shared)
    assert str(option.value) == ("sampler aging-evolution has no option 'populations' (did you mean 'population'?);"
                                 " allowed: population, tournament")
    with pytest.raises(ConfigError, match="sampler random has no option 'x'; allowed: none"):
        make_algorithm("random", x=1, **shared)
    with pytest.raises(ConfigError, match="seed must be a whole number of at least 0; got -1"):
        make_algorithm("random", **{**shared, "seed": -1})


def test_torch_is_loaded_only_by_bayes():
    script = ("import sys; from flashnas.search import ALGORITHMS, algorithm_options\n"
              "for name in ALGORITHMS:\n"
              "    if name != 'bayes':\n"
              "        algorithm_options(name)\n"
              "print(sorted({'torch', 'botorch', 'gpytorch'} & set(sys.modules)))")
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
