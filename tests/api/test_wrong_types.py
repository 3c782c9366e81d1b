"""A value of the wrong type, given to a public function, is one FlashnasError."""

import pytest

import flashnas as fn


@pytest.mark.parametrize("call", [
    lambda: fn.Architecture.parse(None), lambda: fn.Architecture.parse(3),
    lambda: fn.Architecture.from_dict(None),
    lambda: fn.load_run(None), lambda: fn.load_architecture(None), lambda: fn.bench.load(5),
    lambda: fn.HybridLM(None), lambda: fn.Budget("latency_ms", "5"), lambda: fn.Budget("latency_ms", 10**400),
    lambda: fn.Budget("latency_ms", True), lambda: fn.Budget(None, 5), lambda: fn.load_space(None),
    lambda: fn.LatencyTable.load(None), lambda: fn.Recipe.load(None), lambda: fn.list_names(3),
    lambda: fn.search(progress=5), lambda: fn.search(evaluator="f"), lambda: fn.estimate(None),
    lambda: fn.report(None),
])
def test_it_is_one_line(call):
    with pytest.raises(fn.FlashnasError) as caught:
        call()
    assert "\n" not in str(caught.value)
