"""What every search algorithm must do. A new algorithm joins SETTINGS; one that is registered and
missing fails.
"""

import fresh
import pytest
import sampler_contract as contract
from one_line import one_line
from sampler_contract import World, three_goals

from flashnas.base.errors import ConfigError
from flashnas.search import ALGORITHMS, algorithm_options, loss_model, make_algorithm

SETTINGS = {  # options that make tens of candidates enough
    "aging-evolution": {"population": 10, "tournament": 4},
    "nsga2": {"population": 8},
    "tpe": {"startup": 8},
    "random": {},
    "bayes": {"initial": 8, "pool": 32},
}
THREE = (
    "nsga2",
    "bayes",
)  # these are tested with three objectives, and bayes with two in test_history.py
LEARNS = {
    "aging-evolution": 25,
    "bayes": 7,
}  # must beat random on an easy surface, medians over so many seeds


@pytest.fixture(params=list(ALGORITHMS.shipped))
def name(request):
    if request.param not in SETTINGS:
        pytest.fail(
            f"algorithm {request.param!r} is registered but has no line in SETTINGS of this file"
        )
    return request.param


@pytest.fixture
def rough_fits(monkeypatch):
    """The Gaussian processes of `bayes` are fitted in few steps: the contract holds whatever they
    say.
    """
    monkeypatch.setattr(loss_model, "FIT_STEPS", 2)


@pytest.fixture
def plain(name, rough_fits):
    """Loss against latency."""
    return World(name, SETTINGS[name])


@pytest.fixture
def world(name, rough_fits):
    """Loss against latency; or loss, recall and latency, of which only the last is known."""
    return World(name, SETTINGS[name], three_goals() if name in THREE else None)


def test_the_settings_name_registered_algorithms_and_their_options():
    assert set(SETTINGS) <= set(ALGORITHMS)
    for algorithm, options in SETTINGS.items():
        assert set(options) <= set(algorithm_options(algorithm))


@pytest.mark.parametrize(
    "check",
    [
        contract.check_seed_fixes_the_trajectory,
        contract.check_replay,
        contract.check_partial_tells,
        contract.check_one_complete_candidate,
        contract.check_equal_losses,
    ],
    ids=lambda check: check.__name__,
)
def test_contract_with_two_and_three_objectives(world, check):
    check(world)


def test_candidates_are_valid_distinct_new_and_within_the_budget(world):
    contract.check_candidates(
        world, contract.BUDGET_MS if world.goals else contract.TIGHT_BUDGET_MS
    )


@pytest.mark.parametrize(("outcome", "before"), [("failed", 2), ("infeasible", 0)])
def test_cycles_that_give_nothing_do_not_stop_the_search(world, outcome, before):
    contract.check_lost_cycles(world, outcome, before)


@pytest.mark.parametrize(
    "check",
    [
        contract.check_global_random_state,
        contract.check_sizes_of_asks,
        contract.check_order_of_tells,
        contract.check_improvement,
    ],
    ids=lambda check: check.__name__,
)
def test_contract(plain, check):
    check(plain)


def test_asking_for_fewer_gives_the_first_of_them(plain):
    contract.check_prefixes(plain, 2)


def test_a_budget_that_nothing_meets_still_gives_valid_candidates(plain):
    for latency_known in (True, False):
        contract.check_impossible_budget(plain, latency_known)


@pytest.mark.parametrize(
    ("learner", "seeds"),
    [
        pytest.param(learner, seeds, marks=[pytest.mark.slow] if learner == "bayes" else [])
        for learner, seeds in LEARNS.items()
    ],
)
def test_learning_beats_random(learner, seeds):
    contract.check_beats_random(learner, SETTINGS[learner], seeds)


# -- the registry ----------------------------------------------------------------------------------


def test_unknown_names_and_options_are_one_clear_line():
    world = World("random")
    shared = {"space": world.space, "seed": 0, "latency_of": world.latency_of}
    assert one_line(ConfigError, make_algorithm, "aging", **shared) == (
        f"sampler must be one of {', '.join(ALGORITHMS)}; got 'aging'"
        " (did you mean 'aging-evolution'?)"
    )
    assert one_line(ConfigError, make_algorithm, "aging-evolution", populations=3, **shared) == (
        "sampler aging-evolution has no option 'populations' (did you mean 'population'?);"
        " allowed: population, tournament"
    )
    with pytest.raises(ConfigError, match="sampler random has no option 'x'; allowed: none"):
        make_algorithm("random", x=1, **shared)
    with pytest.raises(ConfigError, match="seed must be a whole number of at least 0; got -1"):
        make_algorithm("random", **{**shared, "seed": -1})


def test_torch_is_loaded_only_by_bayes():
    script = (
        "from flashnas.search import ALGORITHMS, algorithm_options\n"
        "for name in ALGORITHMS.shipped:\n"
        "    if name != 'bayes':\n"
        "        algorithm_options(name)\n"
        "print(sorted({'torch', 'botorch', 'gpytorch'} & set(sys.modules)))"
    )
    assert fresh.printed(script) == ["[]"]
