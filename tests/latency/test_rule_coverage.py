"""The bounds of the rules hold on measured rows that the rules did not use: a sample of
experiments/serving/rule_coverage.py.
"""

import dataclasses
import itertools

import pandas as pd

from flashnas.latency.table import LatencyTable


def of_experts(table):
    rows = table.frames["experts"]
    return dataclasses.replace(table, frames={"experts": rows[rows["dtype"] == "bfloat16"]})


def test_nine_of_ten_rows_lie_inside_the_bounds_of_each_rule(coverage):
    table = LatencyTable.load("h100_sxm")
    chosen = itertools.chain(
        coverage.other_kind(table),
        coverage.chunks(table),
        coverage.other_experts(of_experts(table)),
        coverage.windows(table, "attention_prefill"),
        coverage.beyond(table, "gated_delta_rule_prefill"),
        coverage.below(table, "kda_prefill"),
        coverage.corner(table, "gated_delta_rule_prefill"),
        coverage.next_larger(table, "attention_prefill", "head_dim"),
    )
    lines = pd.concat([coverage.run(test) for test in chosen])
    lines = lines[~lines["rule"].str.contains(r"chunks \(the faster|interpolation")]
    inside = ((lines["lower"] <= 1) & (lines["upper"] >= 1)).groupby(lines["rule"]).mean()
    assert len(inside) >= 6
    assert inside.min() > 0.85, (
        inside
    )  # of a sample; all rows: at least 0.9 for each rule and table
    assert (lines["lower"] <= lines["ratio"]).all()
    assert (lines["ratio"] <= lines["upper"]).all()
