"""What every search algorithm must do. A new algorithm joins SETTINGS; one that is registered and
missing fails.
"""

import itertools

import pytest
import sampler_contract as contract
from cases import cases

from flashnas.base.errors import ConfigError
from flashnas.samplers import SAMPLERS, options_of
from flashnas.space import load_space
from flashnas.trials.trial import Trial

SETTINGS = cases("samplers", "few_candidates")
# must beat random on an easy surface, medians over so many seeds
LEARNS = {"aging-evolution": 25, "bayes": 5}


def test_the_settings_name_registered_algorithms_and_their_options():
    assert set(SAMPLERS.shipped) - {"exhaustive"} <= set(SETTINGS) <= set(SAMPLERS)
    for algorithm, options in SETTINGS.items():
        assert set(options) <= set(options_of(SAMPLERS[algorithm]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "tpe")) for name in SETTINGS]
)
def test_contract(name):
    objectives = {"nsga2": (3,), "bayes": (3,)}.get(name, (2,))
    contract.check_sampler(name, SETTINGS[name], objectives)


@pytest.mark.parametrize(("learner", "seeds"), LEARNS.items())
def test_learning_beats_random(learner, seeds):
    contract.check_beats_random(learner, SETTINGS[learner], seeds)


def test_the_exhaustive_one_lists_the_space_once_whatever_it_is_told():
    space = load_space("tiny")
    sampler = SAMPLERS["exhaustive"](space=space, seed=0, fit_width=lambda _: (None, None))
    (known, *others) = itertools.islice(space.enumerate(), 25)
    sampler.start_from([Trial(genotype=known, state="complete", values=(1.0, 1.0))])
    asked = []
    while len(asked) < 24:
        asked += (batch := sampler.ask(7))
        sampler.tell(Trial(genotype=genotype, state="infeasible") for genotype in batch)
    assert asked[:24] == others
    assert not sampler.until_quiet


def test_cycles_of_no_candidate_are_refused():
    def made(**options):
        space = load_space("tiny")
        return SAMPLERS["random"](space=space, seed=0, fit_width=lambda _: (None, None), **options)

    with pytest.raises(ConfigError, match="cycle_size must be a whole number of at least 1; got 0"):
        made(cycle_size=0)
    with pytest.raises(ConfigError, match="ask: n must be a whole number of at least 1; got 0"):
        made().ask(0)
