"""Matrices in fp8: answered by the measured rows of products, with everything else as it is in
bfloat16.
"""

import dataclasses

import numpy as np
import pytest
from one_line import one_line

from flashnas.architecture.source import load_architecture
from flashnas.base.errors import MissingRowsError
from flashnas.latency.calibration import Calibration
from flashnas.latency.lookup import KernelTimes
from flashnas.latency.memory import matrix_numbers, memory_bytes
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.operators.kernel_kinds import ATTENTION, CONV, GEMM, pointwise

WITH_FP8 = ("h100_sxm", "h200_sxm", "l40s")
NARROW, WIDE = "2048: 6x(d f m2 f)", "4096: 16x(gd f) 4x(a f)"


@pytest.fixture(scope="module")
def tables():
    return {name: LatencyTable.load(name) for name in (*WITH_FP8, "a100_sxm")}


@pytest.mark.parametrize("device", WITH_FP8)
def test_products_are_answered_by_rows_of_their_type_and_all_else_as_before(device, tables):
    table = tables[device]
    plain, mixed = KernelTimes(table, "bfloat16"), KernelTimes(table, "bfloat16", "fp8")
    rows = table.frames["gemm"]
    for name, times in (("bfloat16", plain), ("fp8", mixed)):
        own = rows[rows["dtype"] == name]
        assert len(own) > 35_000
        for row in own.sample(50, random_state=0).itertuples():
            found = times.time(GEMM.call("x", n=row.n, k=row.k), "decode", row.m, np.ones(1))
            assert found.us == pytest.approx(row.latency_us, rel=1e-5)
            assert found.source == "imported"
    for call in (
        pointwise("norm", 4096),
        CONV.call("c", channels=6144, conv_size=4),
        ATTENTION.call("a", heads=16, kv_heads=4, head_dim=128, window=0),
    ):
        assert mixed.time(call, "decode", 2, np.array([1024])) == plain.time(
            call, "decode", 2, np.array([1024])
        )


def test_an_estimate_differs_in_the_products_of_the_operators_alone(
    tables,
):
    """The head stays in bfloat16, as in serving engines. Small products take longer, because the
    activations have to be converted, and large ones half the bytes: the rows say so."""
    table, workload = tables["h100_sxm"], load_workload("decode-1k")
    for text, faster in ((NARROW, False), (WIDE, True)):
        a = load_architecture(text)
        plain, fp8 = (
            LatencyModel(
                table, dataclasses.replace(workload, dtype=name), calibration=Calibration()
            ).estimate(a)
            for name in ("bfloat16", "fp8")
        )
        assert len(plain.breakdown) == len(fp8.breakdown)
        for before, after in zip(plain.breakdown, fp8.breakdown, strict=True):
            product = before["kernel"] == "gemm" and before["operator"] != "head"
            assert (before["ms"] == after["ms"]) is not product, before
        assert (fp8.latency_ms < plain.latency_ms) is faster
        assert (plain.weights, fp8.weights) == ("bfloat16", "fp8")
        assert "weights in fp8" in fp8.notes[-1]
        assert not any("fp8" in note for note in plain.notes)


@pytest.mark.parametrize("text", [NARROW, WIDE, "2048(tied=false,meta=64): 4x(moe a)"])
def test_memory_counts_one_byte_for_each_number_of_a_matrix(text):
    a, workload = load_architecture(text), Workload(batch=3, prompt_tokens=100, generated_tokens=50)
    matrices = sum(matrix_numbers(spec, a.hidden) for spec in a.operators)
    assert 0.9 * (a.params - (1 if a.tied else 2) * a.vocab * a.hidden) < matrices < a.params
    saved = memory_bytes(a, workload, 3, "bfloat16") - memory_bytes(a, workload, 3, "fp8")
    assert saved == matrices


def test_a_table_without_such_rows_says_so(tables):
    workload = load_workload("decode-1k,dtype=fp8")
    line = one_line(MissingRowsError, LatencyModel, tables["a100_sxm"], workload)
    assert line == "table a100_sxm has no matrix products with weights in fp8"
