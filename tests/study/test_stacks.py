"""The best pure stack of each mixer, and the even order of operators."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import problem_of

from flashnas.architecture import parse_operators
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import Budget
from flashnas.loss.composition import outside_support
from flashnas.study.explore import evenly_spread, pure_stacks, unevenness


@pytest.mark.parametrize(
    ("space_name", "budget_ms"),
    [("nemotron_flash", 1500.0), ("small", 600.0), ("layerwise", 2000.0)],
)
def test_there_is_one_pure_stack_of_each_mixer(space_name, budget_ms):
    problem = problem_of(space_name, budget_ms)
    space, fitter, scorer = problem.space, problem.fitter, problem.scorer
    kinds = [
        {spec.kind for spec in network.operators if spec.mixes_tokens}
        for _, network in problem.baselines
    ]
    assert [kind for (kind,) in kinds] == [spec.kind for spec in space.mixers]
    assert len({label for label, _ in problem.baselines}) == len(problem.baselines)
    for label, network in problem.baselines:
        assert label.startswith(f"pure {network.hidden}: ")
        assert fitter.fits_network(network)
        assert network.hidden in space.hidden_sizes
        assert len(network.operators) <= space.max_operators
        assert not [words for words in outside_support(network) if "operators" in words]
        sizes = space.widths_of(network.operators)
        wider = [other for other in sizes if fitter.fits_network(other)]
        assert scorer.values([network])[0] <= scorer.values(wider).min() + 1e-12


def test_pure_stacks_that_no_width_fits_are_left_out():
    problem = problem_of()
    tight, impossible = (
        Fitter(problem.space, problem.costs, [Budget("latency_ms", limit)])
        for limit in (640.0, 0.01)
    )
    found = pure_stacks(tight, problem.scorer)
    assert all(tight.fits_network(network) for _, network in found)
    assert pure_stacks(impossible, problem.scorer) == []


def even(text):
    return " ".join(str(spec) for spec in evenly_spread(parse_operators(text)))


def test_an_even_order_by_hand():
    assert even("f f m2 m2") == "m2 f m2 f"
    assert even("a m2 m2 m2 m2 f f f f f") == "m2 f m2 f a f m2 f m2 f"
    assert even("m2 m2 m2 m2 f f") == "m2 m2 f m2 m2 f"
    assert even("m2 f f f") == "m2 f f f"
    assert even("f f") == "f f"
    orders = ["a a a m2 m2 m2", "a m2 a m2 a m2", "a a m2 m2 a m2"]
    scores = [unevenness(tuple(parse_operators(order))) for order in orders]
    assert scores[1] < scores[2] < scores[0]


@given(st.lists(st.sampled_from(["a", "m2", "d", "f"]), min_size=1, max_size=30))
def test_an_even_order_has_the_same_operators_and_does_not_depend_on_theirs(kinds):
    operators = parse_operators(" ".join(kinds))
    ordered = evenly_spread(operators)
    assert Counter(ordered) == Counter(operators)
    assert evenly_spread(operators[::-1]) == ordered == evenly_spread(ordered)
