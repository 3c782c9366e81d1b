"""A value of the wrong type, given to a public function, is one FlashnasError."""

from operator import attrgetter

import pytest
from cases import data_of
from one_line import one_line

import flashnas as fn

NETWORK = fn.Architecture.parse("2048: 6x(m2 f)")
ROWS = data_of("api/wrong_types")


def predicted(networks, tokens=1e11):
    return fn.loss_model().predict_networks(networks, tokens)


def test_tokens_may_be_written_with_their_unit():
    assert predicted([NETWORK], "100B").mean == predicted([NETWORK], 1e11).mean


@pytest.mark.parametrize(("name", "arguments"), ROWS, ids=str)
def test_it_is_one_line(name, arguments):
    call = attrgetter(name)(fn)
    if isinstance(arguments, dict):
        one_line(fn.FlashnasError, call, **arguments)
    else:
        one_line(fn.FlashnasError, call, *arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fn.Budget("latency_ms", 10**400),
        lambda: fn.search(workload=fn.Workload, trials=0),
        lambda: fn.estimate(fn.Architecture),
        lambda: NETWORK.scaled("x"),
        lambda: NETWORK.scaled(2, "x"),
        lambda: predicted(["2048: a f"]),
        lambda: predicted(NETWORK),
        lambda: predicted([NETWORK], "many"),
        lambda: predicted([NETWORK], float("nan")),
        lambda: predicted([NETWORK], None),
    ],
)
def test_of_an_object_it_is_one_line(call):
    one_line(fn.FlashnasError, call)
