"""Every kind of kernel states all that the rest of flashnas reads from it; another package can
bring a kind.
"""

from typing import get_args

import numpy as np
import pytest
from fake_plugins import write_plugin
from offenders import every
from tiny_tables import product_rows, tiny_kinds, write_table

from flashnas.architecture import parse_operators
from flashnas.base.errors import OperatorError, TableError
from flashnas.base.registry import forget_plugins
from flashnas.latency import table
from flashnas.latency.lookup import KernelTimes
from flashnas.latency.table_info import facts_of
from flashnas.operators import OPERATORS
from flashnas.operators.fused_experts import experts_hit
from flashnas.operators.kernel import PHASES, Correction, Load
from flashnas.operators.kernel_kinds import (
    ATTENTION,
    CONV,
    EXPERTS,
    GEMM,
    KERNEL_KINDS,
    SSD,
    kind_of_rows,
    pointwise,
)
from flashnas.operators.spec import Role

FROM_THE_WORKLOAD = {"batch", "tokens", "context", "m"}
CALLS = [call for cls in OPERATORS.values() for call in cls().kernels(2048, "prefill")]


@every(name=KERNEL_KINDS)
def test_a_kind_is_complete(name):
    kind = KERNEL_KINDS[name]
    assert kind.name == name
    assert kind.correction in get_args(Correction)
    assert set(kind.between) <= set(kind.matched) <= set(kind.shape)
    for phase in PHASES:
        columns = kind.columns(phase)
        assert set(columns) <= {*kind.shape, *FROM_THE_WORKLOAD}
        if columns:
            assert set(kind.matched) <= set(columns)
            assert kind.grow in columns
            assert kind_of_rows(kind.rows_name(phase)) == (
                kind,
                None if kind.decode == kind.prefill else phase,
            )
    assert kind.rules or kind.columns("decode"), "nothing would ever answer"
    for rule in kind.rules:
        assert type(rule).__doc__, "`flashnas table info` prints its first sentence"
    found = [call for call in CALLS if call.kind is kind]
    bases = [
        base
        for other in KERNEL_KINDS.values()
        for rule in other.rules
        for base in getattr(rule, "of", ())
    ]
    assert found or kind in bases, (
        "an operator launches each shipped kind, or its rows answer for another"
    )
    for call in found:
        assert kind.workspace_bytes(call) >= 0
        step, prompt = (
            kind.bytes_moved(call, load, 2)
            for load in (Load("decode", 1, 1, 100), Load("prefill", 1, 64, 64))
        )
        assert 0 < step < prompt


def test_a_call_states_the_sizes_of_its_kind():
    call = CONV.call("conv", conv_size=4, channels=96)
    assert call.shape == (("channels", 96), ("conv_size", 4))
    assert call.resized(conv_size=8).shape == (("channels", 96), ("conv_size", 8))
    with pytest.raises(
        OperatorError,
        match="kernel 'conv' of kind conv needs the sizes channels, conv_size; got channels, width",
    ):
        CONV.call("conv", channels=96, width=4)


def test_names_that_are_not_of_rows():
    for name in ("conv", "gemm_decode", "operator_decode", "pointwise_prefill", "con_decode", ""):
        assert kind_of_rows(name) is None


def test_bytes_of_a_kernel_by_hand():
    assert GEMM.bytes_moved(GEMM.call("x", n=5, k=3), Load("prefill", 2, 4, 4), 2) == 2 * (
        8 * (5 + 3) + 15
    )
    call = ATTENTION.call("x", heads=4, kv_heads=2, head_dim=16, window=10)
    assert ATTENTION.bytes_moved(call, Load("decode", 3, 1, 50), 2) == 2 * 2 * 16 * (
        3 * 10 * 2 + 3 * 4
    )
    state = SSD.call("x", heads=2, key_dim=16, value_dim=8, groups=1)
    assert SSD.bytes_moved(state, Load("decode", 1, 1, 9), 2) == 2 * (2 * 2 * 24 + 2 * 16 * 8 * 4)
    experts = EXPERTS.call("x", hidden=7, inner=5, experts=4, active=2, matrices=3)
    conv, norm = CONV.call("x", channels=96, conv_size=4), pointwise("x", 8)
    calls = (GEMM.call("x", n=5, k=3), call, state, experts, conv, norm)
    assert [each.kind.written(each) for each in calls] == [5, 64, 16, 44, 96, 4]
    assert experts_hit(8, 2, 1) == 2
    assert 7.9 < experts_hit(8, 2, 20) < 8


@every(
    case=[
        ("m(state=16)", 6 * 2 * 2048 * 16),
        ("m2(head_dim=64,state=128)", 5 * 2 * 2048 * 128),
        ("gla(head_dim=128)", 5 * 2048 * 64),
        ("d(head_dim=128)", 6 * 2048 * 128),
        ("gd(head_dim=128)", 7 * 2048 * 128),
        ("kda(head_dim=128)", 7 * 2048 * 128),
        ("r7(head_dim=64)", 9 * 2048 * 64),  # decay, one read, two products that write, the output
        ("a(heads=16,kv_heads=4,head_dim=128)", 4 * 2048 * 50),
        ("swa(heads=16,kv_heads=4,head_dim=128,window=7)", 4 * 2048 * 7),
        ("moe(experts=8,active=2,intermediate=100)", 0),
        ("f", 0),
    ]
)
def test_operations_of_the_core_beside_products_and_convolutions(case):
    """Of one token that sees 50; a product has two for each weight that the token passes."""
    notation, expected = case
    (spec,) = parse_operators(notation)
    passed = 0
    for tensor in spec.tensors(2048):
        expert = notation.startswith("moe") and tensor.role is not Role.ROUTER
        if tensor.is_matrix or tensor.name == "conv.weight":
            passed += tensor.numbers * (2 / 8 if expert else 1)
    assert spec.flops(2048, 50) == 2 * passed + expected


# -- a kind of another package ---------------------------------------------------------------------

MODULE = """
from flashnas.operators import KernelKind
from flashnas.operators.kernel import Roofline

FFT_CONV = KernelKind(
    name="fft_conv", shape=("channels",), decode=("channels", "batch"),
    prefill=("channels", "batch", "tokens"), written=lambda call: call["channels"],
    bytes_moved=lambda call, load, size: 2 * size * load.rows * call["channels"], rules=(Roofline(),))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    folder = write_plugin(
        tmp_path / "site",
        "fft-kernels",
        {"flashnas.kernel_kinds": {"fft_conv": "fft_kernels:FFT_CONV"}},
        {"fft_kernels.py": MODULE},
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        forget_plugins()
        yield patch
    forget_plugins()


def test_a_kind_of_another_package_is_answered_by_its_rule_and_then_by_its_rows(plugin, tmp_path):
    call = KERNEL_KINDS["fft_conv"].call("fft", channels=50)
    table = write_table(tmp_path / "bare", tiny_kinds())
    bare = KernelTimes(table, "bfloat16").time(call, "prefill", 2, np.array([10.0]))
    assert (bare.us, bare.source) == (pytest.approx(2 + 2 * 20 * 50 / 1000), "roofline")
    rows = product_rows(
        lambda batch, tokens, **_: 7 * batch * tokens, channels=[50], batch=[1, 4], tokens=[1, 32]
    )
    table = write_table(tmp_path / "measured", {**tiny_kinds(), "fft_conv_prefill": rows})
    assert facts_of(table)["kinds"]["fft_conv_prefill"]["ranges"]["tokens"] == [1, 32]
    found = KernelTimes(table, "bfloat16").time(call, "prefill", 2, np.array([10.0]))
    assert (found.us, found.source) == (pytest.approx(140), "imported")


def test_rows_of_a_package_that_is_not_installed_are_named(tmp_path, plugin):
    rows = product_rows(lambda **_: 7, channels=[50], batch=[1])
    write_table(tmp_path / "t", {"fft_conv_decode": rows})
    plugin.undo()
    forget_plugins()
    table._read.cache_clear()
    with pytest.raises(TableError, match="unknown kind of rows 'fft_conv_decode'"):
        write_table(tmp_path / "t", {})
