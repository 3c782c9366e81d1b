"""The rules for rows that were not measured: each by hand on the invented rows of tiny_tables.py,
and as text.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from tiny_tables import product_rows, tiny_kinds, write_table

from flashnas.architecture import Architecture
from flashnas.base.errors import MissingRowsError
from flashnas.latency.lookup import KernelTimes, LookupFailure
from flashnas.latency.prediction import LatencyModel
from flashnas.operators.kernel import Asked, Chunks, FullAttention, Load
from flashnas.operators.kernel_kinds import (
    ATTENTION,
    CONV,
    DELTA_RULE,
    GATED_DELTA_RULE,
    RWKV7,
    SELECTIVE_SCAN,
    SSD,
)


def time(table, call, phase="decode", batch=1, seen=1.0):
    return KernelTimes(table, "bfloat16").time(call, phase, batch, np.array([seen]))


def test_a_filter_that_was_not_measured_counts_as_the_next_longer(tiny_table):
    shorter, same = (
        time(tiny_table, CONV.call("conv", channels=64, conv_size=size), batch=2) for size in (3, 4)
    )
    assert (shorter.us, shorter.source, same.source) == (same.us, "derived", "imported")
    assert shorter.upper_us == pytest.approx(1.6 * same.upper_us)
    assert shorter.lower_us == pytest.approx(0.75 * 3 / 4 * same.lower_us)  # at least in proportion
    with pytest.raises(
        LookupFailure, match=r"^conv_decode channels=64, conv_size=5 \(measured: 4\), batch=1$"
    ):
        time(tiny_table, CONV.call("conv", channels=64, conv_size=5))


def test_a_window_in_a_long_prefill_keeps_its_share_of_the_scores(tiny_table):
    """tiny_table: 2 heads take 2 x tokens^2 / 100 us in a prefill, and kv_heads x context us in a
    step.
    """
    times = KernelTimes(tiny_table, "bfloat16")
    call = ATTENTION.call("a", heads=2, kv_heads=1, head_dim=16, window=4)
    prefill = Asked(call, "prefill", 1, np.array([8.0]), 8)
    assert FullAttention(edge=2).apply(times, prefill).us == pytest.approx(
        2 * 64 / 100 * (6 * 10) / 64
    )
    step = FullAttention(spread=0.5, upper=0.1).apply(
        times, Asked(call, "decode", 1, np.array([16.0]), 1)
    )
    assert (step.us, step.lower_us) == pytest.approx((4, 0.9 * 0.5 * 4))
    assert step.upper_us == pytest.approx(
        1.1 * 16
    )  # as long as a kernel that reads all of the context
    with pytest.raises(LookupFailure, match=r"window=4 \(measured: 0\), batch=1, context=1000000"):
        time(tiny_table, call, seen=1e6)  # beyond any rows of such a kernel


def test_other_recurrences_take_the_rows_of_the_triton_kernel_first(tmp_path):
    """An operator of the gated delta rule itself keeps those of the kernel that its engine
    takes.
    """
    shape = dict(heads=[1, 8], key_dim=[16], value_dim=[16], batch=[1], tokens=[1, 32])
    table = write_table(
        tmp_path / "t",
        {
            **tiny_kinds(),
            "gated_delta_rule_triton_prefill": product_rows(
                lambda heads, tokens, **_: 5 * heads * tokens, **shape
            ),
        },
    )
    sizes = dict(heads=4, key_dim=16, value_dim=16, groups=4)
    assert time(
        table, GATED_DELTA_RULE.call("gd", **sizes), "prefill", seen=8.0
    ).us == pytest.approx(4 * 8)
    assert time(table, SSD.call("m2", **sizes), "prefill", seen=8.0).us == pytest.approx(5 * 4 * 8)
    assert time(table, SSD.call("m2", **sizes)).us == pytest.approx(
        10 * 4
    )  # a step: there are no rows of Triton's


def test_the_bytes_of_a_long_prompt_take_longer_than_the_steps_of_its_chunks(tmp_path):
    kinds = {k: rows for k, rows in tiny_kinds().items() if k != "gated_delta_rule_prefill"}
    table = write_table(tmp_path / "t", kinds)
    call = GATED_DELTA_RULE.call("gd", heads=4, key_dim=16, value_dim=16, groups=4)
    asked = Asked(call, "prefill", 1, np.array([8.0]), 8)
    times, rule = KernelTimes(table, "bfloat16"), Chunks(least=0.0, chunk=4)
    assert rule.apply(times, asked).us == pytest.approx(2 * 10 * 4)
    wide = dataclasses.replace(asked, seen=np.array([4096.0]), rows=4096)
    rule, load = Chunks(chunk=4096), Load("prefill", 1, 4096, 4096)
    moved = call.kind.bytes_moved(call, load, 2) + call.kind.workspace_bytes(call) * load.rows
    longer = rule.apply(times, wide)
    assert (longer.us, longer.source) == (pytest.approx(times.moving(moved).us), "derived")
    assert (longer.lower_us, longer.upper_us) == pytest.approx((0.35 * longer.us, 2.5 * longer.us))


def test_own_rows_of_another_state_are_not_multiplied(tmp_path):
    """RWKV7 takes twice as long as the gated delta rule, not as itself."""
    own = product_rows(
        lambda heads, tokens, **_: heads * tokens,
        heads=[1, 8],
        key_dim=[32],
        value_dim=[32],
        batch=[1],
        tokens=[1, 32],
    )
    call = RWKV7.call("rwkv7", heads=4, key_dim=16, value_dim=16, groups=4)
    borrowed = write_table(tmp_path / "borrowed", tiny_kinds())
    assert time(borrowed, call, "prefill", seen=8.0).us == pytest.approx(2 * 4 * 8)
    measured = write_table(tmp_path / "own", {**tiny_kinds(), "rwkv7_prefill": own})
    assert time(measured, call, "prefill", seen=8.0).us == pytest.approx(
        1 * 8
    )  # 4 x 16 x 16 = 1 x 32 x 32


def test_what_is_missing_is_described_by_its_sizes(tiny_table, tmp_path):
    with pytest.raises(
        LookupFailure,
        match=r"^attention_decode heads=64, kv_heads=1, head_dim=16, window=0, batch=1,"
        r" context=9$",
    ):
        time(tiny_table, ATTENTION.call("a", heads=64, kv_heads=1, head_dim=16, window=0), seen=9.0)
    with pytest.raises(
        LookupFailure, match=r"^delta_rule_decode heads=1000, key_dim=16, value_dim=16, batch=1$"
    ):
        time(tiny_table, DELTA_RULE.call("d", heads=1000, key_dim=16, value_dim=16, groups=1))
    other = write_table(
        tmp_path / "t",
        {
            "gemm": pd.concat([tiny_kinds()["gemm"], tiny_kinds()["gemm"].assign(dtype="float16")]),
            "conv_decode": tiny_kinds()["conv_decode"].assign(dtype="float16"),
        },
    )
    with pytest.raises(
        LookupFailure, match=r"^conv_decode channels=64, conv_size=4, batch=1 in bfloat16$"
    ):
        time(other, CONV.call("conv", channels=64, conv_size=4))


def test_a_step_of_a_selective_scan_has_wide_bounds(tiny_table):
    call = SELECTIVE_SCAN.call("mamba", channels=64, state=16)
    found = time(tiny_table, call)
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
