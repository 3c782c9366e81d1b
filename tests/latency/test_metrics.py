from cases import cases
from one_line import one_line

from flashnas.base.errors import BudgetError
from flashnas.latency.metrics import METRICS, Budget, of_times
from flashnas.latency.workload import Workload


def test_throughput_counts_what_the_workload_is_about():
    steps = Workload(prompt_tokens=100, generated_tokens=10)
    reading = Workload(prompt_tokens=100, generated_tokens=0)
    for ttft_ms, tpot_ms, workload, expected in (
        (99.0, 2.0, steps, 2000.0),  # generated tokens of all sequences
        (50.0, 0.0, reading, 8000.0),
        (0.0, 0.0, reading, 0.0),
    ):
        assert of_times(ttft_ms, tpot_ms, 4, workload)["throughput_tok_s"] == expected


def test_a_budget_holds_up_to_its_limit_and_throughput_down_to_it():
    metrics = {"latency_ms": 10.0, "memory_gb": 3.0, "throughput_tok_s": 100.0}
    for name, limit, within in cases("latency", "budgets"):
        assert Budget(name, limit).holds(metrics[name]) is within


def test_a_budget_names_its_metric_and_is_a_positive_number():
    message = one_line(BudgetError, Budget, "tpot", 2)
    assert all(
        word in message
        for word in ("budget metric must be one of", "did you mean 'tpot_ms'", *METRICS)
    )
    for limit in (0, float("nan"), float("inf")):
        assert one_line(BudgetError, Budget, "tpot_ms", limit).startswith(
            f"budget tpot_ms must be a positive number; got {limit}"
        )
