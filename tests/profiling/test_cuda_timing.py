"""What profiles on a GPU, with a stand-in for torch.cuda: one graph for all copies, memory that is
counted, and what cannot be captured or does not fit."""

import itertools
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import LAUNCH_US, FakeCuda
from fake_libraries import install
from offenders import every
from test_profile import counting  # noqa: F401  (a fixture)

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.memory import memory_bytes, operator_bytes
from flashnas.latency.row_requests import RowRequest, groups, plan
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS, Workload
from flashnas.network.model import HybridLM
from flashnas.profiling import alone, finalists, inside_model, platforms, whole_model
from flashnas.profiling import profile as profiling
from flashnas.profiling.device_timing import Effort, Measurement, NotCapturable
from flashnas.profiling.platforms import MIN_BUSY_US, PLATFORMS, Cuda
from flashnas.profiling.setup import Setup
from flashnas.profiling.target import Measured
from flashnas.profiling.whole_model import _after_prompt, build_block, filled_state, pieces
from flashnas.space import load_space

EFFORT = Effort(least=3, most=5, seconds=1)
MODEL = Architecture.parse("32(vocab=64,meta=3): a(head_dim=8) m2(head_dim=8,state=8) f")


@pytest.fixture
def cuda(monkeypatch):
    device = FakeCuda()
    device.install(monkeypatch)
    return device


def run_once(calls, mode, effort, *, launch=True):
    """In place of a clock: runs each call once, as a graph's warm-up."""
    for call in calls:
        call()
    return Measurement(float(len(calls)), 1.0, 1.0, 3)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(PLATFORMS["cpu"], "time", run_once)


@pytest.fixture
def refusing(monkeypatch):
    """No graph can hold what is timed."""

    def time(calls, mode, effort, *, launch=True):
        if mode == "cuda_graph":
            raise NotCapturable("it makes the host wait for the device")
        return run_once(calls, mode, effort)

    monkeypatch.setattr(PLATFORMS["cpu"], "time", time)
    monkeypatch.setattr(PLATFORMS["cpu"], "modes", ("eager", "cuda_graph"))
    return Setup(mode="cuda_graph")


@pytest.fixture
def hungry(monkeypatch):
    """A prompt needs too much."""

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(alone, "_read", fail)
    monkeypatch.setattr(whole_model, "first_tokens", fail)


def graph_of(calls):
    """Timed on a platform of its own, which has measured no launch."""
    return Cuda().time([*calls], "cuda_graph", EFFORT)


def test_copies_are_captured_into_one_graph_whose_launch_they_share(cuda):
    measured = graph_of(partial(cuda.kernel, us) for us in (10.0, 30.0, 20.0))
    assert measured.latency_us == pytest.approx((LAUNCH_US + 60) / 3)
    assert cuda.captures == 1
    assert cuda.replays == 1 + measured.repeats
    busy_us = measured.repeats * (LAUNCH_US + 60)
    assert MIN_BUSY_US <= busy_us < MIN_BUSY_US + 100
    assert measured.mode == ""
    assert Cuda().time([partial(cuda.kernel, 10.0)], "eager", EFFORT).latency_us == 10
    assert cuda.captures == 1


def test_rows_are_measured_without_the_launch_of_their_graph(cuda, monkeypatch):
    """What a graph without kernels takes; a row of one short kernel keeps half of its time at
    least.
    """
    monkeypatch.setattr(platforms, "small_kernel", lambda: lambda: cuda.kernel(2.0))
    platform = Cuda()
    assert platform.launch_us == pytest.approx(LAUNCH_US)
    captures = cuda.captures
    for kernels_us, expected_us in (((10.0, 30.0), 20), ((1.0,), (LAUNCH_US + 1) / 2)):
        calls = [partial(cuda.kernel, us) for us in kernels_us]
        measured = platform.time(calls, "cuda_graph", EFFORT, launch=False)
        assert measured.latency_us == pytest.approx(expected_us)
    assert cuda.captures == captures + 2, "the launch is measured once"


def test_what_waits_for_the_host_is_found_before_the_capture(cuda):
    with pytest.raises(NotCapturable, match="makes the host wait for the device"):
        graph_of([lambda: (cuda.kernel(1.0), cuda.wait())])
    assert cuda.captures == 0
    assert cuda.debug == 0
    cuda.refuses = "CUDA error: operation failed due to a previous error during capture\nmore"
    with pytest.raises(
        NotCapturable,
        match=r"^CUDA error: operation failed due to a previous error during capture$",
    ):
        graph_of([partial(cuda.kernel, 1.0)])
    cuda.refuses = ""

    def broken():
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape"):
        graph_of([broken])


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_that_no_graph_can_hold_is_timed_eagerly_and_says_so(refusing):
    item = RowRequest("decode", "f", 16, 0, 1, 3)
    row = alone.measure_alone([item], refusing, 3)[item]
    assert row.mode == "eager"
    assert "no CUDA graph can hold it: it makes the host wait" in row.note


@pytest.fixture
def built(monkeypatch):
    """The blocks that were built and still exist, and how many there were."""
    blocks, count = weakref.WeakSet(), []

    def build(spec, hidden, setup):
        block = build_block(spec, hidden, setup)
        blocks.add(block)
        count.append(hidden)
        return block

    monkeypatch.setattr(alone, "build_block", build)
    return SimpleNamespace(blocks=blocks, widths=count)


@pytest.mark.parametrize(("free", "fits"), [(10**9, True), (10_000, False)])
def test_memory_is_counted_before_it_is_asked_for(free, fits, plain, built, monkeypatch):
    monkeypatch.setattr(PLATFORMS["cpu"], "free_bytes", lambda: free)
    item = RowRequest("prefill", "f", 64, 0, 2, 30)
    found = alone.measure_alone([item], Setup(), 3)[item]
    assert isinstance(found, Measurement) == bool(built.widths) == fits
    assert fits or str(found) == "it needs 0.0 GB, and 0.0 GB are free"


def test_copies_of_an_operator_serve_all_its_rows(plain, built):
    """Over lengths, phases and batches; rows, and the number of copies, are those of copies that
    are built anew.
    """
    items = [
        RowRequest("decode", "f", 16, 0, batch, length) for batch in (1, 3) for length in (0, 9)
    ]
    items.append(RowRequest("prefill", "f", 16, 0, 1, 5))
    apart = {}
    for item in items:
        apart |= alone.measure_alone([item], Setup(), 4)
    assert len(built.widths) == 4 * len(items)
    built.widths.clear()
    assert alone.measure_alone(items, Setup(), 4) == apart
    assert built.widths == [16] * 4
    head = RowRequest("decode", "head", 16, 30, 1, 0)
    assert alone.measure_alone([head], Setup(), 4)[head].latency_us == 4


def test_requests_are_grouped_by_the_operator_whose_copies_serve_them():
    for group in groups(plan(load_space("tiny"), [WORKLOADS["chat"]]), alone=True):
        assert len({(item.operator, item.hidden) for item in group.items}) == 1


def test_copies_that_are_kept_count_as_memory_that_they_have(plain, built, monkeypatch):
    """Rows with larger states leave room for fewer of them."""
    (spec,) = parse_operators("a(head_dim=8)")
    of_one, alive = operator_bytes(spec, 64, batch=8, context=64, at_once=8, dtype="float32")

    def free():
        weights = [weight.nbytes for block in built.blocks for weight in block.parameters()]
        return int(4.5 * of_one + alive) - sum(weights)

    monkeypatch.setattr(PLATFORMS["cpu"], "free_bytes", free)
    items = [RowRequest("decode", str(spec), 64, 0, batch, 64) for batch in (1, 8)]
    copies = [alone.measure_alone([item], Setup(), 9)[item].latency_us for item in items]
    built.widths.clear()
    found = alone.measure_alone(items, Setup(), 9)
    assert [found[item].latency_us for item in items] == copies
    assert copies[0] > copies[1] == 4
    assert len(built.widths) == copies[0]


def test_running_out_of_memory_skips_the_row_and_not_the_others(plain, hungry, monkeypatch):
    forgotten = []
    monkeypatch.setattr(PLATFORMS["cpu"], "forget", lambda: forgotten.append(1))
    items = [RowRequest(phase, "f", 16, 0, 1, 3) for phase in ("prefill", "decode")]
    left_out, found = alone.measure_alone(items, Setup(), 3).values()
    assert str(left_out) == "the device ran out of memory"
    assert isinstance(found, Measurement)
    assert forgotten == [1]


def test_a_profile_tells_what_it_left_out_and_measures_it_the_next_time(
    counting, tmp_path, monkeypatch
):
    whole = profiling.measure_inside_model

    def measure(group, space, setup):
        if group.phase == "prefill":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(group, space, setup)

    monkeypatch.setattr(profiling, "measure_inside_model", measure)
    space, folder = load_space("tiny"), tmp_path / "table"
    counts = profiling.profile(space, [WORKLOADS["chat"]], folder, Setup())
    table = LatencyTable.load(folder)
    assert table.kinds == ("operator_decode",)
    left_out = [
        note for note in counts["notes"] if note.endswith("left out: the device ran out of memory")
    ]
    assert len(left_out) == len(counts["notes"]) == 15  # embedding, a, d, m2 and f at three widths
    assert counts["measured"] == len(table.rows("operator_decode"))
    assert table.meta["jobs"][0]["notes"] == counts["notes"]
    monkeypatch.setattr(profiling, "measure_inside_model", whole)
    assert profiling.profile(space, [WORKLOADS["chat"]], folder, Setup())["measured"] == 15


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_memory_of_a_model_around_its_rows_is_counted_before_it_is_built(phase, monkeypatch):
    """In the mode eager: what does not fit is left out, and the other lengths are measured. The
    caches of all contexts are kept side by side."""
    space = load_space("tiny")
    requests = [
        item
        for item in plan(space, [Workload(prompt_tokens=100, generated_tokens=400)])
        if item.phase == phase and item.hidden == space.hidden_sizes[0]
    ]
    (group,) = groups(requests)
    architecture = inside_model.reference_architecture(space, group.hidden, 4)

    def needed(context):
        return memory_bytes(architecture, Workload(generated_tokens=context), 1, "float32", 1)

    def fitting(free):
        monkeypatch.setattr(PLATFORMS["cpu"], "free_bytes", lambda: free)
        return inside_model._fitting(architecture, group, Setup())

    lengths, weights = list(group.lengths), needed(1)
    assert fitting(10**10) == (lengths, None)
    if phase == "decode":  # room for the shortest contexts alone
        free = needed(lengths[0]) + needed(lengths[1]) - weights
        assert fitting(free)[0] == lengths[:2]
    assert fitting(weights - 1)[0] == []
    monkeypatch.setattr(inside_model, "build_model", lambda *_: pytest.fail("it was built"))
    found = inside_model.measure_inside_model(group, space, Setup())
    assert set(found) == set(group.items)
    assert str(found[group.items[0]]).startswith("it needs 0.")


def test_prompts_in_pieces_are_timed_as_the_sum_of_their_pieces(monkeypatch):
    model, cpu, moments = HybridLM(MODEL).eval(), PLATFORMS["cpu"], itertools.count()
    monkeypatch.setattr(cpu, "moment", lambda: 1000 * next(moments))
    for batch, piece_tokens in (
        (3, 25),  # three sequences, one after the other
        (1, 8),  # parts of 8, 8 and 4 tokens
    ):
        monkeypatch.setattr(cpu, "piece_tokens", piece_tokens)
        before = next(moments)
        with torch.inference_mode():
            times = inside_model._prefill(model, batch, 20, Setup())()
        assert times == [3.0] * 4, "embedding and three operators"
        assert next(moments) - before - 1 == 3 * 5


# -- whole models ----------------------------------------------------------------------------------


def test_pieces_of_prompts():
    for batch, tokens, most, expected in (
        (4, 10, 2**62, [[(4, 10)]]),
        (4, 10, 40, [[(4, 10)]]),
        (5, 10, 25, [[(2, 10)], [(2, 10)], [(1, 10)]]),
        (2, 25, 10, [[(1, 10), (1, 10), (1, 5)]] * 2),
    ):
        found = pieces(torch.zeros(batch, tokens), most)
        assert [[tuple(part.shape) for part in parts] for parts in found] == expected


@every(most=[7, 20, 45])
def test_prompts_in_pieces_give_the_same_next_tokens(most):
    torch.manual_seed(0)
    model = HybridLM(MODEL).eval()
    tokens = torch.randint(64, (5, 20))
    with torch.inference_mode():
        expected = model.prefill(tokens)[0].argmax(-1)
        assert torch.equal(whole_model.first_tokens(model, tokens, most), expected)


def test_a_model_without_memory_is_not_built_or_is_told(hungry, monkeypatch):
    with pytest.raises(DeviceMemoryError, match="the device ran out of memory"):
        Setup().time_request(MODEL, Workload(prompt_tokens=20), 2)
    monkeypatch.setattr(PLATFORMS["cpu"], "free_bytes", lambda: 10_000)
    monkeypatch.setattr(whole_model, "build_model", lambda *_: pytest.fail("it was built"))
    with pytest.raises(
        DeviceMemoryError, match=r"it needs .* GB with batch 2, and 0.0 GB are free"
    ):
        Setup().time_request(MODEL, Workload(prompt_tokens=20, generated_tokens=9), 2)


def test_a_model_that_no_graph_can_hold_is_timed_eagerly(refusing):
    measured = refusing.time_request(MODEL, Workload(prompt_tokens=20, generated_tokens=9), 2)
    assert measured.latency_ms > 0
    assert measured.note.startswith("timed in the mode eager")
    assert set(measured.to_dict()) == {"ttft_ms", "tpot_ms", "latency_ms"}


def test_finalists_that_do_not_fit_are_left_out_of_the_rounds_and_have_one_note(monkeypatch):
    model = SimpleNamespace(
        workload=Workload(prompt_tokens=4, generated_tokens=2), batch=lambda architecture: 1
    )

    def request(setup, architecture, workload, batch):
        if len(architecture.operators) > 3:
            raise DeviceMemoryError("it needs 9 GB")
        return Measured(ttft_ms=1.0, tpot_ms=1.0, latency_ms=3.0, note="timed in the mode eager")

    monkeypatch.setattr(Setup, "time_request", request)
    small, large, notes = MODEL, Architecture.parse("32(vocab=64): 9x(f)"), []
    found = finalists.measure_finalists([small, large], model, Setup(), notes.append)
    assert set(found) == {small.hash}
    assert set(notes) == {
        f"finalist {small.notation}: timed in the mode eager",
        f"finalist {large.notation}: not timed: it needs 9 GB",
    }
    assert len(notes) == 2


# -- states ----------------------------------------------------------------------------------------


def test_a_timed_state_lies_in_memory_as_a_prompt_leaves_it(monkeypatch):
    """mamba-ssm keeps [B, H, V, K]; its step reads K neighbours together only in that layout."""
    install(monkeypatch, devices=("cpu",))
    torch.manual_seed(0)
    block = build_block(
        parse_operators("m2(head_dim=8,state=16)")[0], 32, Setup(backend="mamba-ssm")
    )
    with torch.inference_mode():
        state = _after_prompt(block, 2).matrix_BHKV
        assert state.shape[2:] == (16, 8)
        assert state.mT.is_contiguous()
        assert block.mixer.init_state(2, torch.float32).matrix_BHKV.is_contiguous()


@pytest.mark.parametrize(
    "text",
    ["a(head_dim=8)", "m2(head_dim=8,state=16)", "h(head_dim=8,ssm_head_dim=8,state=16)", "f"],
)
def test_states_on_a_gpu_are_those_after_a_prompt(text, monkeypatch):
    block = build_block(parse_operators(text)[0], 32, Setup())
    usual = filled_state(block, 2, 9)
    monkeypatch.setattr(whole_model, "_on_gpu", lambda block: True)
    with torch.inference_mode():
        state = filled_state(block, 2, 9)
        assert type(state) is type(usual)
        assert block.step(torch.randn(2, 32), state)[0].shape == (2, 32)
    if text.startswith("a"):
        assert (state.seen, state.keys_BGTK.shape) == (8, usual.keys_BGTK.shape)


def test_meta_tokens_are_read_without_states(monkeypatch):
    """A library that starts at zero only, as mamba-ssm's scan, then reads them at its full
    speed.
    """
    model = HybridLM(MODEL)
    seen, run = [], model.run_layers
    monkeypatch.setattr(
        model, "run_layers", lambda x, states: seen.extend(states) or run(x, states)
    )
    cache = model.start_cache(2)
    assert seen == [None, None, None]
    assert cache.states[0].seen == 3


def test_a_step_that_is_timed_in_a_graph_stays_at_its_position():
    """By the step that generation replays: the last slot of its cache is written again and
    again.
    """
    setup = SimpleNamespace(mode_name="cuda_graph", torch_dtype=torch.float32, device="cpu")
    for spec in parse_operators(
        "a(head_dim=16) swa(head_dim=16,window=5) h(head_dim=16,ssm_head_dim=16,state=16) f"
    ):
        with torch.inference_mode():
            block = build_block(spec, 64, Setup(backend="torch"))
            step = whole_model.block_step(block, 2, 9)
            first = step()
            if spec.kind != "h":
                torch.testing.assert_close(step(), first, rtol=1e-6, atol=1e-6)
    model = HybridLM(MODEL, "torch").eval()
    step = whole_model.model_step(model, 2, 9, setup)
    with torch.inference_mode():
        assert step().shape == (2,)
        assert step().shape == (2,)


def test_what_enters_decays_stays_wide_in_a_deployed_model():
    network = Architecture.parse("32(vocab=64): m2(head_dim=8,state=8) gd(head_dim=8) m(state=8) f")
    model = whole_model.build_model(network, Setup(dtype="bfloat16"))
    wide = {
        name.rpartition(".")[2]
        for name, weight in model.named_parameters()
        if weight.dtype == torch.float32
    }
    assert wide == {"A_log", "D", "dt_bias"}
    assert model.final_norm.weight.dtype == torch.bfloat16
    assert (
        model.decode_step(torch.zeros(2, dtype=torch.long), model.start_cache(2))[0].dtype
        == torch.bfloat16
    )
