"""Networks as arrays say what each network says of itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashnas.architecture import Architecture, parse_operators
from flashnas.architecture.networks import Networks

STACKS = [
    parse_operators(text)
    for text in ("3x(a f)", "d f m2 f a f", "gd moe(experts=8,active=2)", "a f a f", "m2 m2 f")
]
WIDTHS = (512, 1024, 1536)


@given(
    st.lists(
        st.tuples(st.integers(0, len(STACKS) - 1), st.sampled_from(WIDTHS), st.booleans()),
        max_size=12,
    )
)
def test_arrays_are_those_of_the_architectures(parts):
    networks = Networks(
        STACKS,
        np.array([stack for stack, _, _ in parts], int),
        np.array([hidden for _, hidden, _ in parts], int),
        tied=np.array([tied for *_, tied in parts], bool),
        vocab=1000,
        meta_tokens=3,
    )
    built = [
        Architecture(hidden=hidden, operators=STACKS[stack], vocab=1000, tied=tied, meta_tokens=3)
        for stack, hidden, tied in parts
    ]
    assert list(networks) == built
    for each in (networks, Networks.of(built) if built else networks):
        assert each.params.tolist() == [network.params for network in built]
        assert each.active_params.tolist() == [network.active_params for network in built]
    part = networks.take(np.arange(0, len(built), 2))
    assert part.params.tolist() == [network.params for network in built[::2]]
    widest = networks.largest_of([spec.params(hidden) for spec, hidden in networks.pairs])
    assert widest.tolist() == [
        max(spec.params(network.hidden) for spec in network.operators) for network in built
    ]


def test_networks_of_two_vocabularies_are_refused():
    one, other = (Architecture.parse(f"512(vocab={vocab}): a f") for vocab in (100, 200))
    with pytest.raises(ValueError, match="different vocabularies"):
        Networks.of([one, other])
