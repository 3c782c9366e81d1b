"""The bounds of the rules hold on measured rows that the rules did not use: a sample of
experiments/rule_coverage.
"""

import itertools

import pandas as pd

from flashnas.latency.table import LatencyTable


def test_nine_of_ten_rows_lie_inside_the_bounds_of_each_rule(coverage):
    table = LatencyTable.load("h100_sxm")
    chosen = itertools.chain(
        coverage.other_kind(table),
        coverage.chunks(table),
        coverage.windows(table, "attention_prefill"),
        coverage.beyond(table, "gated_delta_rule_prefill"),
        coverage.below(table, "kda_prefill"),
        coverage.corner(table, "gated_delta_rule_prefill"),
        coverage.next_larger(table, "attention_prefill", "head_dim"),
    )
    lines = pd.concat([coverage.run(test) for test in chosen])
    lines = lines[~lines["rule"].str.contains("chunks (the faster", regex=False)]
    inside = ((lines["lower"] <= 1) & (lines["upper"] >= 1)).groupby(lines["rule"]).mean()
    assert len(inside) >= 6
    assert inside.min() > 0.85, (
        inside
    )  # of a sample; all rows: at least 0.9 for each rule and table
    assert (lines["lower"] <= lines["ratio"]).all()
    assert (lines["ratio"] <= lines["upper"]).all()


def test_the_rows_of_the_other_recurrences_come_from_the_better_base(coverage):
    """From vLLM's own rows, predictions of Kimi delta attention are half of what was measured."""
    lines = pd.concat(
        [coverage.run(test) for test in coverage.other_kind(LatencyTable.load("h100_sxm"))]
    )
    ratio = lines[lines["rows"] == "kda_prefill"].groupby("rule")["ratio"].median()
    assert 0.9 < ratio["same state of another kind"] < 1.7
    assert ratio["same state of another kind (the faster kernel)"] < 0.7


def test_a_measured_row_is_never_among_those_that_answer(coverage):
    table = LatencyTable.load("h100_sxm")
    for test in coverage.beyond(table, "kda_prefill"):
        kept = test.left.frames["kda_prefill"]
        assert len(kept) + len(test.asked) == len(table.frames["kda_prefill"])
        assert kept[test.axis].max() < test.asked[test.axis].min()
