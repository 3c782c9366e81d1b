"""Selective scans on the invented rows of tiny_tables.py."""

import numpy as np
import pytest
from tiny_tables import product_rows, tiny_kinds, write_table

from flashnas.architecture import Architecture
from flashnas.base.errors import MissingRowsError
from flashnas.latency.lookup import KernelTimes
from flashnas.latency.prediction import LatencyModel
from flashnas.operators.kernel_kinds import SELECTIVE_SCAN


def entries(table, notation: str, workload: str, label: str) -> dict:
    estimate = LatencyModel(table, workload).estimate(Architecture.parse(notation))
    return {entry["phase"]: entry for entry in estimate.breakdown if entry["label"] == label}


def test_a_selective_scan_borrows_the_gated_delta_rule_by_state_bytes(tiny_table):
    # 64 channels x 16 = 4 heads of 16 x 16; the tiny table reads 10 heads a step
    core = entries(tiny_table, "32(vocab=64): m", "prompt=8,generated=2", "mamba")
    assert core["decode"]["ms"] == pytest.approx(2 * 10 * 4 / 1000, rel=1e-6)
    assert core["prefill"]["ms"] == pytest.approx(4.5 * 10 * 4 / 1000, rel=1e-6)
    assert {entry["source"] for entry in core.values()} == {"derived"}
    call = SELECTIVE_SCAN.call("mamba", channels=64, state=16)
    answer = KernelTimes(tiny_table, "bfloat16").time(call, "decode", 1, np.ones(1))
    assert (answer.lower_us, answer.upper_us) == pytest.approx(
        (40 * 0.9 * 0.7, 40 * 1.1 * 1.3 * 1.5)
    )


def test_a_long_selective_scan_is_missing_until_it_is_measured(tmp_path):
    kinds = tiny_kinds()
    for kind in ("conv_prefill", "gemm"):
        kinds[kind] = product_rows(
            lambda **_: 1,
            **(
                {"m": [1, 65536], "n": [16, 256], "k": [2, 256]}
                if kind == "gemm"
                else {"channels": [64], "conv_size": [4], "batch": [1], "tokens": [1, 2048]}
            ),
        )
    table = write_table(tmp_path / "t", kinds)
    with pytest.raises(
        MissingRowsError,
        match=r"cannot answer operator 'm\(dt_rank=2\)'.*: no selective_scan_prefill"
        r" channels=64, state=16, batch=1, tokens=513; measure it: flashnas",
    ):
        entries(table, "32(vocab=64): m", "prompt=513,generated=0", "mamba")
    kinds["selective_scan_prefill"] = product_rows(
        lambda channels, tokens, **_: channels * tokens,
        channels=[32, 128],
        state=[16],
        batch=[1],
        tokens=[1, 1024],
    )
    table = write_table(tmp_path / "measured", kinds)
    core = entries(table, "32(vocab=64): m", "prompt=513,generated=0", "mamba")
    assert core["prefill"]["ms"] == pytest.approx(64 * 513 / 1000, rel=1e-6)
    assert core["prefill"]["source"] == "imported"
