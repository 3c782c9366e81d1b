"""A value of the wrong type, given to a public function, is one FlashnasError."""

import pytest
from one_line import one_line

import flashnas as fn

NETWORK = fn.Architecture.parse("2048: 6x(m2 f)")


def predicted(networks, tokens=1e11):
    return fn.evidence.full_loss().predict_networks(networks, tokens)


def test_tokens_may_be_written_with_their_unit():
    assert predicted([NETWORK], "100B").mean == predicted([NETWORK], 1e11).mean


@pytest.mark.parametrize(
    "call",
    [
        lambda: fn.Architecture.parse(None),
        lambda: fn.Architecture.from_dict(None),
        lambda: fn.load_run(None),
        lambda: fn.load_architecture(None),
        lambda: fn.HybridLM(None),
        lambda: fn.Budget("latency_ms", "5"),
        lambda: fn.Budget("latency_ms", 10**400),
        lambda: fn.Budget("latency_ms", True),
        lambda: fn.Budget(None, 5),
        lambda: fn.load_space(None),
        lambda: fn.LatencyTable.load(None),
        lambda: fn.Recipe.load(None),
        lambda: fn.list_names(3),
        lambda: fn.search(progress=5),
        lambda: fn.search(evaluator="f"),
        lambda: fn.estimate(None),
        lambda: fn.report(None),
        lambda: fn.search(resume=5),
        lambda: fn.search(workload=fn.Workload, trials=0),
        lambda: fn.estimate(fn.Architecture),
        lambda: NETWORK.shallower(0),
        lambda: NETWORK.scaled("x"),
        lambda: NETWORK.scaled(2, "x"),
        lambda: fn.evidence.full_loss(5),
        lambda: fn.evidence.full_loss(without="nowhere"),
        lambda: predicted(["2048: a f"]),
        lambda: predicted(NETWORK),
        lambda: predicted([NETWORK], "many"),
        lambda: predicted([NETWORK], float("nan")),
        lambda: predicted([NETWORK], None),
        lambda: predicted([NETWORK]).difference(0, 5),
        lambda: predicted([NETWORK]).difference(0, -1),
        lambda: predicted([NETWORK]).difference("x", 0),
    ],
)
def test_it_is_one_line(call):
    one_line(fn.FlashnasError, call)
