"""Composition against sums made by hand from the invented rows of tiny_tables.py.

There, pointwise kernels take 2 + values / 1000 us (values = elements x rows), a product m n k /
1000 us.
"""

import pytest
from cases import cases
from offenders import every
from one_line import one_line
from tiny_tables import product_rows, tiny_kinds, write_entry, write_table

from flashnas.architecture import Architecture
from flashnas.base.errors import MissingRowsError, WorkloadError
from flashnas.latency.calibration import Calibration
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import load_workload

A_F = Architecture.parse("32(vocab=64): a(heads=2,kv_heads=1,head_dim=16) f(intermediate=64)")
WORKLOAD = "batch=2,prompt=4,generated=3"


def pw(values):
    return 2 + values / 1000


def request_us(rows, attention_us):
    """A_F over rows of 2 sequences: lookup; norm, qkv, rotary, cache write, attention, out; norm,
    gate_up, silu_mul, down; and for one row of each sequence final norm, head, sampling."""
    pointwise = sum(pw(rows * values) for values in (64, 64, 96, 64, 64, 192))
    products = rows * (64 * 32 + 32 * 32 + 128 * 32 + 32 * 64) / 1000
    return pointwise + products + attention_us + 2 * pw(2 * 64) + 2 * 64 * 32 / 1000


# 2 tokens a step; contexts 5, 6, 7; attention kv_heads x batch x context
STEP_US = request_us(2, 1 * 2 * 6)
# 8 tokens at once, 4 per sequence; attention heads x batch x tokens^2 / 100
PREFILL_US = request_us(8, 2 * 2 * 16 / 100)


def test_attention_and_feed_forward_by_hand(tiny_table):
    estimate = LatencyModel(tiny_table, WORKLOAD).estimate(A_F)
    assert estimate.tpot_ms == pytest.approx(STEP_US / 1000, rel=1e-6)
    assert estimate.ttft_ms == pytest.approx(PREFILL_US / 1000, rel=1e-6)
    assert estimate.latency_ms == pytest.approx((PREFILL_US + 3 * STEP_US) / 1000, rel=1e-6)
    assert estimate.throughput_tok_s == pytest.approx(2 / (STEP_US / 1e6), rel=1e-6)
    assert estimate.params == A_F.params
    assert estimate.hash == A_F.hash
    with pytest.raises(WorkloadError, match="did you mean 'latency_ms'"):
        estimate.metric("latency")


def parts(table, notation, workload, label):
    """Those of one label, by phase."""
    estimate = LatencyModel(table, workload).estimate(
        Architecture.parse(f"32(vocab=64): {notation}")
    )
    return {entry["phase"]: entry for entry in estimate.breakdown if entry["label"] == label}


def test_gated_delta_net_by_hand(tiny_table):
    a = Architecture.parse("32(vocab=64): gd(head_dim=16)")
    estimate = LatencyModel(tiny_table, "generated=2").estimate(a)
    # lookup, norm, gated norm, final norm, sampling; qkvz, beta_decay (n=4 counts as 16), out and
    # head; conv, 2 heads
    pointwise = 4 * pw(64) + pw(96)
    step = pointwise + (128 + 16 + 32 + 64) * 32 / 1000 + 3 + 10 * 2
    assert estimate.tpot_ms == pytest.approx(step / 1000, rel=1e-6)
    assert estimate.ttft_ms == 0


@every(case=cases("latency", "borrowed_recurrences"))
def test_recurrent_operators_borrow_the_gated_delta_rule_by_state_size(tiny_table, case):
    operator, label, heads, times = case
    core = parts(tiny_table, operator, "prompt=8,generated=2", label)
    assert core["decode"]["ms"] == pytest.approx(2 * 10 * heads / 1000, rel=1e-6)
    assert core["prefill"]["ms"] == pytest.approx(times * 8 * heads / 1000, rel=1e-6)
    assert {entry["source"] for entry in core.values()} == {"derived"}


def test_meta_tokens_are_read_once_and_stay_in_the_cache(tiny_table):
    def figures(meta):
        a = Architecture.parse(f"32(vocab=64,meta={meta}): a(heads=2,kv_heads=1,head_dim=16)")
        return LatencyModel(tiny_table, "generated=3").estimate(a)

    bare, meta = figures(0), figures(8)
    assert bare.ttft_ms == 0
    # 8 tokens through the body, no head: lookup, norm, qkv, rotary, cache write, attention, out
    read = (
        pw(8 * 64)
        + pw(8 * 64)
        + 8 * 64 * 32 / 1000
        + pw(8 * 96)
        + pw(8 * 64)
        + 2 * 64 / 100
        + 8 * 32 * 32 / 1000
    )
    assert meta.ttft_ms == pytest.approx(read / 1000, rel=1e-6)
    assert meta.tpot_ms - bare.tpot_ms == pytest.approx(
        8 / 1000, rel=1e-6
    )  # kv_heads x batch x 8 more tokens


def test_a_window_counts_as_full_attention_over_so_many_tokens(tiny_table):
    text, label = "swa(heads=2,kv_heads=1,head_dim=16,window=4)", "sliding_window_attention"
    core = parts(tiny_table, text, "prompt=8,generated=2", label)
    assert core["decode"]["ms"] == pytest.approx(2 * 4 / 1000, rel=1e-6)
    # few tokens: all scores
    assert core["prefill"]["ms"] == pytest.approx(2 * 64 / 100 / 1000, rel=1e-6)
    assert {entry["source"] for entry in core.values()} == {"derived"}
    inside = parts(tiny_table, text, "generated=4", label)
    assert inside["decode"]["source"] == "imported", "contexts 1..4 never reach the window"


def test_heads_between_measured_ones(tiny_table):
    a = Architecture.parse("48(vocab=64): a(heads=3,kv_heads=1,head_dim=16)")
    entries = LatencyModel(tiny_table, "generated=1").estimate(a).breakdown
    core = next(e for e in entries if e["kernel"] == "attention_decode")
    assert (core["ms"], core["source"]) == (pytest.approx(0.001), "derived")
    with pytest.raises(MissingRowsError, match="heads=5, kv_heads=1"):
        LatencyModel(tiny_table, "generated=1").estimate(
            Architecture.parse("80(vocab=64): a(heads=5,kv_heads=1,head_dim=16)")
        )


def test_a_large_vocabulary_is_cut_into_equal_products(tiny_table):
    a = Architecture.parse("32(vocab=512): f(intermediate=64)")
    estimate = LatencyModel(tiny_table, "generated=1").estimate(a)
    head = next(entry for entry in estimate.breakdown if entry["label"] == "head")
    assert (head["ms"], head["source"]) == (
        pytest.approx(512 * 32 / 1000 / 1000, rel=1e-6),
        "derived",
    )


# -- bounds, sources, breakdown --------------------------------------------------------------------

MIXED = Architecture.parse(
    "32(vocab=64,meta=4): d(head_dim=16) f a(heads=2,kv_heads=1,head_dim=16)"
    " swa(heads=2,kv_heads=1,head_dim=12,window=4) gla(head_dim=16) gd(head_dim=16)"
    " m2(head_dim=16,state=16)"
)


@every(workload=["generated=9", "prompt=16", WORKLOAD])
def test_bounds_and_sources(tiny_table, workload):
    estimate = LatencyModel(tiny_table, workload).estimate(MIXED)
    assert 0 < estimate.lower_ms < estimate.latency_ms < estimate.upper_ms
    assert set(estimate.sources) == {"imported", "derived", "roofline"}
    assert sum(entry["ms"] for entry in estimate.breakdown) == pytest.approx(estimate.latency_ms)
    kinds = {e["index"]: e["operator"] for e in estimate.breakdown if e["index"] >= 0}
    assert kinds == {n: spec.kind for n, spec in enumerate(MIXED.operators)}


def test_bounds_add_up_linearly_by_source(tiny_table):
    a = Architecture.parse("32(vocab=64): f(intermediate=64)")
    estimate = LatencyModel(tiny_table, "generated=1").estimate(a)
    imported, roofline = (
        1000 * estimate.latency_ms * estimate.sources[s] for s in ("imported", "roofline")
    )
    assert 1000 * estimate.upper_ms == pytest.approx(1.1 * imported + 1.5 * roofline)
    assert 1000 * estimate.lower_ms == pytest.approx(0.9 * imported + 0.5 * roofline)


# -- what a table lacks ----------------------------------------------------------------------------


def test_a_gap_names_what_is_missing_and_what_measures_it(tiny_table):
    model = LatencyModel(tiny_table, WORKLOAD)
    message = one_line(
        MissingRowsError, model.estimate, Architecture.parse("64(vocab=64): a(head_dim=64)")
    )
    for word in (
        "table tiny",
        "'a(heads=1,kv_heads=1,head_dim=64)'",
        "hidden size 64",
        "attention_prefill",
        "flashnas profile --space SPACE",
        "--device cuda",
    ):
        assert word in message


def test_dtype_that_the_table_lacks(tiny_table):
    with pytest.raises(
        MissingRowsError,
        match="no rows in float32; it has: bfloat16; measure them: flashnas profile",
    ):
        LatencyModel(tiny_table, "generated=1,dtype=float32")


# -- whole operators, calibration ------------------------------------------------------------------


def measured_table(folder):
    """A_F's attention, beside the kernels."""
    axes = {"operator": [str(A_F.operators[0].resolved(32))], "hidden": [32], "vocab": [0]}
    axes |= {"batch": [1, 4]}
    rows = {
        "operator_decode": product_rows(
            lambda context, batch, **_: context * batch, context=[4, 16], **axes
        ),
        "operator_prefill": product_rows(lambda tokens, **_: tokens, tokens=[2, 8], **axes),
    }
    whole = {name: each.assign(source="measured") for name, each in rows.items()}
    return write_table(folder, {**whole, **tiny_kinds()})


def test_whole_operators_beyond_what_was_measured_are_missing(tmp_path):
    table, a = (
        measured_table(tmp_path / "t"),
        Architecture.parse(f"32(vocab=65): {A_F.operators[0]}"),
    )
    for workload, words in (
        ("batch=2,prompt=4,generated=13", "operator_decode rows for batch 2 and 5 to 17 tokens"),
        ("batch=2,prompt=9,generated=1", "operator_prefill rows for batch 2 and 9 to 9 tokens"),
    ):
        with pytest.raises(MissingRowsError, match=words):
            LatencyModel(table, workload).estimate(a)


def test_shorter_contexts_than_measured_count_as_the_shortest(tmp_path):
    table = measured_table(tmp_path / "t")
    a = Architecture.parse("32(vocab=64): a(heads=2,kv_heads=1,head_dim=16)")
    core = LatencyModel(table, "batch=2,generated=6").estimate(a).breakdown[1]
    assert core["ms"] == pytest.approx(
        2 * (4 * 4 + 5 + 6) / 1000, rel=1e-6
    )  # contexts 1, 2, 3 as 4
    assert core["source"] == "derived"


def test_calibration_by_hand_and_visible(tmp_path, tiny_table):
    write_table(tmp_path / "t", tiny_kinds())
    write_entry(tmp_path / "t", "calibration", {"paper": {"scale": 1.5, "gap_us": 4.0}})
    bare = LatencyModel(tiny_table, WORKLOAD).estimate(A_F)
    estimate = LatencyModel(tmp_path / "t", WORKLOAD, calibration="paper").estimate(A_F)
    rows_ms = sum(
        e["ms"] for e in bare.breakdown if e["phase"] == "decode" and e["source"] != "roofline"
    )
    kernels = sum(e["phase"] == "decode" for e in bare.breakdown)
    added = 0.5 * rows_ms + 3 * 4.0 * kernels / 1000
    assert estimate.latency_ms == pytest.approx(bare.latency_ms + added)
    assert estimate.ttft_ms == pytest.approx(bare.ttft_ms)
    corrections = [e for e in estimate.breakdown if e["kernel"] == "calibration"]
    assert len(corrections) == 4  # embedding, a, f, head
    assert {e["source"] for e in corrections} == {"derived"}
    assert sum(e["ms"] for e in corrections) == pytest.approx(added)
    # without whole models: the sum of what the rows may be off by
    assert estimate.upper_ms - bare.upper_ms == pytest.approx(added)
    for calibration in (Calibration(), "engine"):
        model = LatencyModel(tmp_path / "t", WORKLOAD, calibration=calibration)
        assert model.estimate(A_F).latency_ms == bare.latency_ms


def test_a_named_table_has_one_model_until_a_file_of_it_changes(tmp_path):
    write_table(tmp_path / "tiny", tiny_kinds())
    table, workload = LatencyTable.load(tmp_path / "tiny"), load_workload(WORKLOAD)
    first = model_of(table.path, workload)
    assert model_of(str(table.path), workload) is first
    assert model_of(table.path, workload, calibration="paper") is not first
    own = model_of(table, workload)
    assert own.table is table
    assert own.estimate(A_F) == first.estimate(A_F)
    write_table(
        tmp_path / "tiny",
        {
            "gemm": product_rows(
                lambda m, n, k: m * n * k / 500, m=[1, 65536], n=[16, 256], k=[16, 256]
            )
        },
    )
    assert model_of(table.path, workload).estimate(A_F).latency_ms > first.estimate(A_F).latency_ms
