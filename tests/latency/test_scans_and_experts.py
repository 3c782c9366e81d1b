"""Selective scans on the invented rows of tiny_tables.py."""

import numpy as np
import pytest
from tiny_tables import product_rows, tiny_kinds, write_table

from flashnas.architecture import Architecture
from flashnas.base.errors import MissingRowsError
from flashnas.latency.lookup import KernelTimes
from flashnas.latency.prediction import LatencyModel
from flashnas.operators.kernel_kinds import SELECTIVE_SCAN


def test_a_step_of_a_selective_scan_has_wide_bounds(tiny_table):
    call = SELECTIVE_SCAN.call("mamba", channels=64, state=16)
    found = KernelTimes(tiny_table, "bfloat16").time(call, "decode", 1, np.ones(1))
    assert (found.lower_us, found.upper_us) == pytest.approx((40 * 0.9 * 0.7, 40 * 1.1 * 1.3 * 1.5))


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
    network = Architecture.parse("32(vocab=64): m")
    model = LatencyModel(write_table(tmp_path / "t", kinds), "prompt=513")
    with pytest.raises(
        MissingRowsError,
        match=r"cannot answer operator 'm\(dt_rank=2\)'.*: no selective_scan_prefill"
        r" channels=64, state=16, batch=1, tokens=513; measure it: flashnas",
    ):
        model.estimate(network)
    kinds["selective_scan_prefill"] = product_rows(
        lambda channels, tokens, **_: channels * tokens,
        channels=[32, 128],
        state=[16],
        batch=[1],
        tokens=[1, 1024],
    )
    measured = LatencyModel(write_table(tmp_path / "measured", kinds), "prompt=513")
    (core,) = [e for e in measured.estimate(network).breakdown if e["label"] == "mamba"]
    assert core["ms"] == pytest.approx(64 * 513 / 1000, rel=1e-6)
    assert core["source"] == "imported"
