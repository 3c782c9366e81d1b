"""Fused experts: what rows answer, what the rule answers, and that both hold on rows left out."""

import numpy as np
import pytest
from tiny_tables import product_rows, tiny_kinds, write_table

from flashnas.architecture import Architecture, parse_operators
from flashnas.latency.lookup import KernelTimes
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.operators.kernel_kinds import EXPERTS

SIZES = {"hidden": 32, "inner": 16, "experts": 8, "active": 2, "matrices": 3}
WEIGHTS = 3 * 32 * 16  # of an expert


def time(table, batch=1, weights="", **sizes):
    call = EXPERTS.call("experts", **{**SIZES, **sizes})
    return KernelTimes(table, "bfloat16", weights).time(call, "decode", batch, np.ones(1))


def summed(m, weights, active, experts, between):
    """Start, bytes and operations on the device of tiny_tables.py."""
    hit = experts * (1 - (1 - active / experts) ** m)
    return 32 + 2 * (hit * weights + 2 * m * between) / 2000 + 4e-6 * m * active * weights


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    rows = product_rows(
        lambda inner, m, **_: inner * m,
        hidden=[32],
        experts=[8],
        active=[2],
        matrices=[3],
        inner=[16, 64],
        m=[1, 64],
    )
    rows = rows[(rows["inner"] == 16) | (rows["m"] == 64)]  # no row of a wide expert and one token
    return write_table(tmp_path_factory.mktemp("experts") / "t", {**tiny_kinds(), "experts": rows})


def test_rows_answer_between_measured_widths_and_tokens(measured):
    found = time(measured, batch=64, inner=32)
    assert (found.us, found.source) == (pytest.approx(32 * 64), "imported")


def test_beyond_the_rows_the_nearest_ones_and_a_ratio_of_sums(measured):
    one = summed(1, WEIGHTS, 2, 8, 32 + 2 * (3 * 16 + 32))
    more = summed(1, WEIGHTS, 2, 16, 32 + 2 * (3 * 16 + 32))
    found = time(measured, experts=16)
    assert (found.us, found.source) == (pytest.approx(16 * more / one), "derived")
    two = summed(1, 2 * 32 * 24, 2, 8, 32 + 2 * (2 * 24 + 32))
    found = time(measured, inner=24, matrices=2)  # as many weights as in three of width 16
    assert found.us == pytest.approx(16 * two / one)
    assert found.upper_us == pytest.approx(found.us * 1.1 * 1.2)
    # the widest lacks a row of one token: the sum alone
    alone = time(measured, inner=64)
    assert alone.us == pytest.approx(summed(1, 4 * WEIGHTS, 2, 8, 32 + 2 * (3 * 64 + 32)))
    assert alone.lower_us == pytest.approx(alone.us / 2)


def test_a_token_more_never_takes_less():
    table = LatencyTable.load("h100_sxm")
    for sizes in ({"experts": 128, "active": 8}, {"experts": 64, "active": 6}):
        for weights in ("", "fp8"):
            us = [
                time(table, m, weights, hidden=2048, inner=768, **sizes).us
                for m in (1, 4, 16, 64, 256, 1024, 8192, 32768)
            ]
            assert us == sorted(us)


def test_experts_without_a_gate_move_two_matrices():
    gated, plain = parse_operators("moe(experts=8,active=2) moe(experts=8,active=2,relu2=true)")
    for spec, matrices in ((gated, 3), (plain, 2)):
        (call,) = [call for call in spec.kernels(2048, "decode") if call.kind is EXPERTS]
        assert EXPERTS.weights(call) == spec.params(2048) - 2048 - 8 * 2048
        assert EXPERTS.flops(call, 1) == 2 * 2 * matrices * 2048 * 3072


def test_the_published_sparse_model_is_in_its_interval():
    """LFM2.5-8B-A1B in SGLang takes 2.40 ms a token; nothing was fitted to it."""
    attention = "a(heads=32,kv_heads=8,head_dim=64,qk_norm=true)"
    moe = "moe(experts=32,active=4,intermediate=1792,sigmoid=true)"
    network = Architecture.parse(
        f"2048(vocab=65536): 2x(conv f(intermediate=7168)) {attention} {moe}"
        f" 5x(3x(conv {moe}) {attention} {moe}) conv {moe}"
    )
    assert network.params == pytest.approx(8.34e9, rel=0.01)
    found = LatencyModel("h100_sxm", "batch=1,prompt=1024,generated=1024").estimate(network)
    lower, upper = found.bounds["tpot_ms"]
    assert lower < 2.40 < upper
    assert found.tpot_ms == pytest.approx(2.40, rel=0.1)
