"""The short trainings that ship: what their card says of the file."""

import re

import pandas as pd
import pytest

import flashnas as fn
from flashnas.base.registry import shipped_root

FOLDER = shipped_root("bench_tables") / "cpu"


@pytest.fixture(scope="module")
def frame():
    return pd.read_parquet(FOLDER / "bench.parquet")


def test_the_card_explains_every_column(frame):
    explained = re.findall(r"(?m)^\| `([^`]+)` \|", (FOLDER / "README.md").read_text())
    named = {name.split("/")[0] for name in explained}
    assert {name.split("/")[0] for name in frame.columns} == named


def test_latencies_are_predictions_of_the_shipped_tables(frame):
    network = frame.iloc[2]
    for table, workload in (("h100_sxm", "decode-8k"), ("l40s", "chat")):
        found = fn.estimate(
            network["architecture"], table=table, workload=workload, calibration="paper"
        )
        assert network[f"latency_ms/{table}/{workload}"] == pytest.approx(found.latency_ms)
    assert frame["latency_ms/a100_sxm/prefill-2k"].isna().any()
