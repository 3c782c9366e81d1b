"""What the samplers are told: values, constraints, failures, and nothing they need not train."""

import pytest
from bit_space import BitSpace
from optuna.trial import TrialState

from flashnas.samplers import SAMPLERS, Trial

NAMES = ("nsga2", "tpe")
FROM_THE_SPACE = {"nsga2": "population", "tpe": "startup"}


def capped(space, most):
    def fit_width(genotype):
        architecture, latency_ms = space.fit_width(genotype)
        return (architecture if sum(genotype.bits) <= most else None), latency_ms

    return fit_width


@pytest.mark.parametrize("name", NAMES)
def test_results_reach_the_study(name):
    space = BitSpace(12)
    algorithm = SAMPLERS[name](space=space, seed=1, fit_width=space.fit_width)
    asked = algorithm.ask(4)
    algorithm.tell(
        [
            Trial(genotype=asked[0], values=(3.0, 7.0)),
            Trial(genotype=asked[1], state="failed"),
            Trial(genotype=asked[2], state="infeasible"),
            Trial(genotype=asked[3], values=(float("inf"), 7.0)),
        ]
    )
    trials = algorithm.study.trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.FAIL,
    ]
    assert trials[0].values == [3.0, 7.0]
    assert trials[0].constraints == {"budget": 0.0}
    assert trials[2].constraints["budget"] > 0
    assert [trial.params for trial in trials] == [space.encode(g) for g in asked]
    assert [trial.number for trial in algorithm.study.best_trials] == [0]


@pytest.mark.parametrize("name", NAMES)
def test_the_sampler_learns_the_distance_to_a_budget_that_nothing_meets(name):
    space = BitSpace(12)
    algorithm = SAMPLERS[name](space=space, seed=1, fit_width=capped(space, -1))
    asked = algorithm.ask(6)
    algorithm.tell([Trial(genotype=g, state="infeasible") for g in asked])
    told = [trial for trial in algorithm.study.trials if trial.state == TrialState.COMPLETE]
    assert [t.constraints["budget"] for t in told] == [
        pytest.approx(space.fit_width(g)[1]) for g in asked
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_candidates_are_drawn_from_the_space(name):
    """As aging evolution and random search draw them, and not uniformly over the encoding."""
    space = BitSpace(12)
    drawn = []
    sample = space.sample
    space.sample = lambda rng: drawn.append(sample(rng)) or drawn[-1]
    algorithm = SAMPLERS[name](
        space=space, seed=1, fit_width=space.fit_width, **{FROM_THE_SPACE[name]: 5}
    )
    asked = algorithm.ask(4)
    assert asked == drawn
    algorithm.tell([Trial(genotype=g, values=(1.0, 1.0)) for g in asked])
    asked = algorithm.ask(4)
    assert asked[0] == drawn[4]
    assert len(drawn) == 5
