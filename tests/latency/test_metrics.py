from dataclasses import dataclass

import pytest

from flashnas.base.errors import BudgetError
from flashnas.latency.metrics import FIGURES, Budget, fits, latency_ms, make_budgets, parse_budget, throughput_tok_s


@dataclass
class Figures:
    values: dict

    def figure(self, name):
        return self.values[name]


def test_latency_is_ttft_plus_steps():
    assert latency_ms(10.0, 2.0, 5) == 20.0


def test_throughput_counts_what_the_workload_is_about():
    assert throughput_tok_s(99.0, 2.0, 4, 100, 10) == 2000.0  # generated tokens of all sequences
    assert throughput_tok_s(50.0, 0.0, 4, 100, 0) == 8000.0   # only reading
    assert throughput_tok_s(0.0, 0.0, 4, 0, 0) == 0.0


def test_budget_ms_bounds_the_whole_request():
    budgets = make_budgets(14000, ["tpot_ms=2.0", "memory_gb<=8"])
    assert [str(b) for b in budgets] == ["latency_ms=14000", "tpot_ms=2", "memory_gb=8"]
    assert budgets[0].unit == "ms"
    assert make_budgets() == ()


def test_fits_needs_every_budget_and_throughput_is_a_least():
    figures = Figures({"latency_ms": 10.0, "memory_gb": 3.0, "throughput_tok_s": 100.0})
    assert fits(figures, make_budgets(10.0))
    assert not fits(figures, make_budgets(9.9))
    assert not fits(figures, make_budgets(10.0, ["memory_gb=2"]))
    assert fits(figures, make_budgets(None, ["throughput_tok_s=100"]))
    assert not fits(figures, make_budgets(None, ["throughput_tok_s=101"]))
    assert fits(figures, ())


@pytest.mark.parametrize(("text", "words"), [
    ("tpot=2", ["tpot", "did you mean 'tpot_ms'", *FIGURES]),
    ("tpot_ms", ["FIGURE=LIMIT", "'tpot_ms'"]),
    ("tpot_ms=fast", ["tpot_ms", "'fast'"]),
    ("tpot_ms=0", ["positive", "0"]),
    ("tpot_ms=nan", ["positive", "nan"]),
])
def test_budget_errors(text, words):
    with pytest.raises(BudgetError) as caught:
        parse_budget(text)
    for word in words:
        assert word in str(caught.value)


def test_a_budget_given_twice_is_refused():
    with pytest.raises(BudgetError, match="latency_ms is given twice"):
        make_budgets(10, ["latency_ms=20"])
    with pytest.raises(BudgetError, match="positive"):
        Budget("latency_ms", -1)
