"""The even order of the operators of a network."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flashnas.architecture import parse_operators
from flashnas.study.trials import evenly_spread, unevenness


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
