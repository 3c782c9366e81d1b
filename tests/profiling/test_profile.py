"""Rows of operators from whole networks: the regression, and the measurement with a stand-in for
the clock."""

import dataclasses
import json

import numpy as np
import pytest
import yaml
from invented_times import invent_device
from one_line import one_line

import flashnas as fn
from flashnas.api.measure import doubts
from flashnas.base.errors import (
    DeviceMemoryError,
    ExportError,
    MissingRowsError,
    SpaceError,
    TableError,
)
from flashnas.base.system import hold_lock
from flashnas.latency import schema
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import write_rows
from flashnas.latency.validation import sample
from flashnas.latency.workload import WORKLOADS, Workload
from flashnas.operators import OPERATORS
from flashnas.operators.attention.spec import Attention, SlidingWindowAttention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.profiling import regression
from flashnas.profiling.platforms import PLATFORMS
from flashnas.profiling.profile import profile
from flashnas.profiling.regression import Terms, choose_networks
from flashnas.profiling.row_requests import contexts, plan
from flashnas.profiling.table_folder import JOURNAL, TableFolder
from flashnas.profiling.target import Timings
from flashnas.profiling.torch_target import Torch
from flashnas.space import load_space

CHAT, TINY = WORKLOADS["chat"], load_space("tiny")
SHORT = Workload(name="short", prompt_tokens=300, generated_tokens=400)
SPACE = """\
template: layerwise
model: {vocab: 320, tied: true, meta_tokens: META}
widths: WIDTHS
layers:
  depth: [2, 8]
  require: [m2, a]
  choices: ["m2(head_dim=32,state=16) f", "a(head_dim=32) f"]
"""


def make_space(path, meta=1, widths=(64, 96), depth=(2, 8)):
    text = SPACE.replace("META", str(meta)).replace("WIDTHS", str(list(widths)))
    path.write_text(text.replace("[2, 8]", str(list(depth))))
    return load_space(str(path))


@pytest.fixture
def space(tmp_path):
    return make_space(tmp_path / "space.yaml")


@pytest.fixture
def narrow(tmp_path):
    """Of one width, without meta tokens."""
    return make_space(tmp_path / "narrow.yaml", 0, (64,))


def cost(network, costs):
    """The sum over operators; an FFN by its share of the width of the FFNs of the space."""
    total = 0.0
    for spec in network.canonical().operators:
        share = 1.0
        if spec.kind == "f":
            share = spec.intermediate / type(spec)().resolved(network.hidden).intermediate
        total += costs[spec.kind] * share
    return total


def step_ms(network, context):
    ffn = 0.03 * network.hidden / 64
    return 0.05 + cost(network, {"m2": 0.02, "f": ffn, "a": 0.01 + context * 2e-5})


def prompt_ms(network, tokens):
    return 0.06 + tokens * cost(network, {"m2": 0.004, "f": 0.002, "a": 0.003})


@pytest.fixture
def few_networks(monkeypatch):
    """Tables of few networks, on a machine that is made up."""
    monkeypatch.setattr(regression, "POOL", 8)
    monkeypatch.setattr(regression, "BOOTSTRAPS", 20)
    invent_device(monkeypatch)


@pytest.fixture
def clock(monkeypatch, few_networks):
    """A stand-in for torch: known times, and what was timed."""
    seen = []

    def times(self, network, batch, prompts, steps):
        seen.append((network, batch))
        return Timings(
            [batch * prompt_ms(network, tokens) for tokens in prompts],
            [batch * np.mean([step_ms(network, n) for n in part]) for part in steps],
        )

    monkeypatch.setattr(Torch, "times", times)
    return seen


@pytest.fixture
def profiled(clock, narrow, tmp_path):
    """Profiles the narrow space, once for each network, into a folder."""

    def run(target=None, *, workloads=(SHORT,), rounds=1, folder="table", **more):
        return profile(
            narrow, workloads, tmp_path / folder, target or Torch(), rounds=rounds, **more
        )

    return run


def lacking(space, folder, target=None):
    return TableFolder(folder, target or Torch()).missing(plan(space, [SHORT]))


# -- what is asked for -----------------------------------------------------------------------------


def test_the_plan_counts_meta_tokens_and_names_no_row_twice():
    """4 of them, 512 tokens in and 256 out."""
    items = plan(TINY, [CHAT, CHAT])
    assert len(items) == len(set(items))
    lengths = {(item.phase, item.length) for item in items if item.operator[:2] == "a("}
    assert lengths == {("decode", 517), ("decode", 772), ("prefill", 516)}


def test_contexts_span_the_workload_and_meet_the_window():
    assert contexts(OPERATORS["d"](), 2048, 1, 8192) == [0]
    assert contexts(OPERATORS["a"](), 2048, 1, 8192) == [1, 64, 256, 1024, 4096, 8192]
    assert contexts(SlidingWindowAttention(window=100), 2048, 1, 300) == [1, 64, 100, 256, 300]


def test_what_looks_back_follows_from_kernels_and_not_from_words():
    class Sparse(Attention):
        family = "sparse attention"

    class Convolution(OPERATORS["conv"]):
        family = "attention-like convolution"

    assert contexts(Sparse(), 2048, 1, 300) == [1, 64, 256, 300]
    assert contexts(Convolution(), 2048, 1, 300) == [0]


# -- regression ------------------------------------------------------------------------------------


def test_few_networks_are_joined_by_others_or_refused(tmp_path):
    """A space of one network, whose operators always occur together, can be timed where the program
    runs any network."""

    def refuse(network):
        raise ExportError("it cannot hold this network")

    def hold_pairs(network):
        if len(network.operators) != 4:
            refuse(network)

    rng, small = np.random.default_rng(0), make_space(tmp_path / "s.yaml", 0, (64,), depth=(2, 2))
    terms = Terms(small, [64])
    networks = choose_networks(terms, rng, Torch().check_holds)
    assert np.linalg.matrix_rank(terms.matrix(networks)) == 4
    with pytest.raises(ExportError, match="cannot hold this network"):
        choose_networks(Terms(TINY, [64]), rng, refuse)
    with pytest.raises(SpaceError, match="operators at width 64 cannot be told apart by the 3"):
        choose_networks(terms, rng, hold_pairs)


def test_an_operator_that_no_drawn_network_has_is_told_by_copies(tmp_path, monkeypatch):
    """Without a warning of numpy, which would be an error here."""
    space = make_space(tmp_path / "s.yaml", 0, (64,))
    wide = FeedForward(intermediate=512)
    kinds = (*space.kinds(), SlidingWindowAttention(window=64, head_dim=32), wide)
    monkeypatch.setattr(type(space), "kinds_at", lambda self, hidden: kinds)
    terms = Terms(space, [64])
    with np.errstate(all="raise"):
        networks = choose_networks(terms, np.random.default_rng(0), Torch().check_holds)
    assert terms.separable(networks)
    assert any("swa" in network.notation for network in networks)


# -- the measurement -------------------------------------------------------------------------------


def test_a_table_predicts_networks_that_were_not_timed(space, clock, tmp_path):
    folder, calls = tmp_path / "table", []
    record = profile(space, [SHORT], folder, Torch(), lambda *done: calls.append(done))
    assert len(clock) == 3 * 2 * 10  # rounds, widths, networks
    widths = [network.hidden for network, _ in clock]
    assert widths == [64, 96] * (3 * 10), "the pace of the first timings is that of all"
    assert calls == [(number, 60) for number in range(61)]
    assert record["measured"] == len(plan(space, [SHORT]))
    assert record["regression"]["decode"]["max_error"] < 1e-3
    assert record["disturbed_networks"] == 0
    assert "notes" not in record
    table = LatencyTable.load(folder)
    assert (table.mode, table.dtypes) == ("eager", ("float32",))
    (job,) = table.meta["jobs"]
    assert job.items() <= record.items()
    model, timed = LatencyModel(table, SHORT), {network.hash for network, _ in clock}
    for network in sample(space, model, 10, np.random.default_rng(1)):
        assert network.hash not in timed
        estimate = model.estimate(network)
        steps = [step_ms(network, 301 + n) for n in range(1, 401)]
        assert estimate.tpot_ms == pytest.approx(np.mean(steps), rel=5e-3)
        assert estimate.ttft_ms == pytest.approx(prompt_ms(network, 301), rel=1e-3)
        assert estimate.sources == {"measured": pytest.approx(1)}
        assert 0 < estimate.lower_ms <= estimate.latency_ms <= estimate.upper_ms
    before = len(clock)
    again = profile(space, [SHORT], folder, Torch())
    assert (again, len(clock)) == ({"measured": 0, "known": record["measured"]}, before)


def test_only_what_is_missing_is_measured_and_rows_of_other_settings_never_meet(
    profiled, narrow, tmp_path
):
    first = profiled()["measured"]
    both = [SHORT, Workload(name="longer", prompt_tokens=600, generated_tokens=10)]
    more = profiled(workloads=both)
    assert (more["known"], more["measured"]) == (first, len(plan(narrow, both)) - first)
    half = Torch(dtype="bfloat16")
    assert profiled(half)["measured"] == first, "a dtype is rows of its own"
    assert not lacking(narrow, tmp_path / "table", half)
    with pytest.raises(TableError, match=r"table: rows of threads 1 and 2 do not mix; profile"):
        profiled(Torch(threads=2))


def test_modes_never_meet(profiled, tmp_path, monkeypatch):
    profiled()
    monkeypatch.setitem(schema.PLATFORMS, "cpu", "cuda_graph")
    with pytest.raises(TableError, match="table: the table is of eager; got cuda_graph: take"):
        profiled()
    table = LatencyTable.load(tmp_path / "table")
    rows = table.frames["operator_decode"].assign(mode="cuda_graph")
    write_rows(tmp_path / "table", "operator_decode", rows, table.device)
    with pytest.raises(TableError, match="rows of mode cuda_graph and eager do not mix; profile"):
        LatencyTable.load(tmp_path / "table")


def in_space(clock, space):
    """The first network that was timed and is one of the space."""
    return next(network for network, _ in clock if space.contains(network))


def test_a_table_that_was_measured_for_the_largest_batch_answers_it(
    profiled, clock, narrow, tmp_path
):
    """By the line through the batches 8 and 32, with wide bounds."""
    many = Workload(name="many", batch="max", prompt_tokens=20, generated_tokens=8)
    profiled(workloads=[many])
    assert {batch for _, batch in clock} == {1, 8, 32}
    network = in_space(clock, narrow)
    model = LatencyModel(str(tmp_path / "table"), many)
    batch, found = model.batch(network), model.estimate(network)
    assert batch > 32
    steps = np.mean([step_ms(network, n) for n in range(21, 29)])
    assert found.tpot_ms == pytest.approx(batch * steps, rel=0.01)
    assert found.sources == {"derived": pytest.approx(1)}
    assert found.lower_ms < 0.8 * found.latency_ms
    profiled(folder="one")
    two = LatencyModel(str(tmp_path / "one"), dataclasses.replace(SHORT, batch=2))
    with pytest.raises(MissingRowsError, match="no operator_prefill rows for batch 2"):
        two.estimate(network)


def test_prompts_alone_and_steps_alone_are_measured(profiled, clock, narrow, tmp_path):
    for name, work in (("p", Workload(prompt_tokens=20)), ("s", Workload(generated_tokens=20))):
        record = profiled(workloads=[work], folder=name)
        assert record["measured"] == len(plan(narrow, [work]))
        network = in_space(clock, narrow)
        steps = sum(step_ms(network, n) for n in range(1, 21))
        estimate = LatencyModel(str(tmp_path / name), work).estimate(network)
        assert estimate.latency_ms == pytest.approx(
            prompt_ms(network, 20) if name == "p" else steps, rel=0.01
        )


@pytest.mark.usefixtures("clock", "narrow")
def test_the_same_command_continues_in_its_folder(tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / JOURNAL).touch()
    work = ["batch=1,prompt=4,generated=4"]
    found = fn.profile(space=str(tmp_path / "narrow.yaml"), workload=work, out=tmp_path / "table")
    assert found.measured > 0
    with hold_lock(tmp_path / "table" / f".{JOURNAL}.lock", RuntimeError()):
        line = one_line(TableError, profile, TINY, [CHAT], tmp_path / "table", Torch())
    assert line.endswith("table: another process is measuring this table")


@pytest.mark.parametrize(("busy", "disturbed", "source"), [(1, 0, "measured"), (99, 5, "derived")])
def test_networks_whose_timings_differ_are_timed_again(
    profiled, tmp_path, monkeypatch, busy, disturbed, source
):
    """Every second timing takes longer, up to the last of those of a busy machine: then more than a
    tenth stay disturbed, and nothing is called measured."""
    steady, timed = Torch.times, []

    def times(*question):
        timed.append(question)
        slower = 1 + 0.3 * len(timed) % 7 if busy > 1 or len(timed) == 15 else 1.0
        prompts, steps, *_ = steady(*question)
        return Timings([slower * ms for ms in prompts], [slower * ms for ms in steps])

    monkeypatch.setattr(Torch, "times", times)
    record = profiled(rounds=3)
    assert (record["disturbed_networks"] > 1) == (disturbed > 1)
    assert record["source"] == source
    frames = LatencyTable.load(tmp_path / "table").frames.values()
    assert {text for frame in frames for text in frame["source"]} == {source}
    if busy == 1:
        assert len(timed) == 3 * record["networks"] + 1
        assert record["regression"]["decode"]["max_error"] < 1e-3
        assert doubts(record) == ()
    else:
        (line,) = doubts(record)
        assert line.endswith(
            "differ by more than 15 %, though repeated, and the rows count as derived; delete the"
            " folder and profile again when nothing else runs"
        )


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [600, 0])
def test_lengths_without_memory_are_left_out_and_measured_the_next_time(
    profiled, narrow, tmp_path, monkeypatch, longest
):
    """Where no step fits, the prompts are measured alone."""
    fits = Torch.check_memory

    def check(self, network, batch, prompts, steps):
        if any(part[-1] > longest for part in steps):
            raise DeviceMemoryError("a network needs 9.0 GB")
        fits(self, network, batch, prompts, steps)

    monkeypatch.setattr(Torch, "check_memory", check)
    record = profiled()
    assert record["notes"] == ["left out: a network needs 9.0 GB"]
    left_out = lacking(narrow, tmp_path / "table")
    if longest:
        assert [(item.operator[0], item.length) for item in left_out] == [("a", 700)]
    else:
        assert LatencyTable.load(tmp_path / "table").frames.keys() == {"operator_prefill"}
        assert {item.phase for item in left_out} == {"decode"}
    assert record["measured"] == len(plan(narrow, [SHORT])) - len(left_out)
    monkeypatch.setattr(Torch, "check_memory", fits)
    assert profiled()["measured"] == len(left_out)


def test_what_runs_out_of_memory_is_left_out_and_not_the_rest(space, clock, tmp_path, monkeypatch):
    whole = Torch.times

    def times(self, network, *question):
        if network.hidden == 96:
            raise DeviceMemoryError("the device ran out of memory")
        return whole(self, network, *question)

    monkeypatch.setattr(Torch, "times", times)
    record = profile(space, [SHORT], tmp_path / "table", Torch())
    assert record["notes"] == ["left out: width 96 with batch 1: the device ran out of memory"]
    assert record["measured"] == sum(item.hidden == 64 for item in plan(space, [SHORT]))
    assert len(clock) == 3 * 10, "it is tried once"


# -- the folder ------------------------------------------------------------------------------------


def test_what_an_interrupted_first_write_left_is_continued(profiled, clock, tmp_path):
    profiled()
    (tmp_path / "table" / "meta.yaml").unlink()
    (tmp_path / "table" / ".meta.yaml.abc").touch()
    before = len(clock)
    assert profiled()["known"] == 0
    assert len(clock) == before, "the journal has all timings"


def test_the_table_of_another_device_is_refused_before_anything_is_timed(profiled, monkeypatch):
    """Also where it lacks no row."""
    profiled()
    monkeypatch.setattr(Torch, "times", lambda *_: pytest.fail("a network was timed"))
    monkeypatch.setattr(PLATFORMS["cpu"], "label", lambda: "another CPU")
    longer = dataclasses.replace(SHORT, generated_tokens=800)
    for work in (SHORT, longer):
        with pytest.raises(
            TableError, match=r"the table is of .*, but this is another CPU; choose another --out"
        ):
            profiled(workloads=[work])


def test_a_damaged_journal_is_one_line(profiled, tmp_path):
    (tmp_path / "table").mkdir()
    line = dict.fromkeys(("stack", "mode", "dtype", "hash", "notation"), "x")
    line |= {"batch": 1, "round": 0, "prompts": {"4": 1.0}}
    for wrong in (
        {"hash": 1},
        *({**line, "steps": s} for s in ({"5": -1.0}, {"5": 0}, {"x": 1.0})),
    ):
        (tmp_path / "table" / JOURNAL).write_text(json.dumps(wrong) + "\n")
        with pytest.raises(TableError, match=r"networks\.jsonl:1: (timing|prompts and steps must)"):
            profiled()


def test_a_table_of_a_stranger_is_continued_inside_its_folder(profiled, tmp_path):
    profiled()
    table = tmp_path / "table"
    (table / ".writable").symlink_to(tmp_path / "outside")
    for more, origin in enumerate(("a text", {"several": 3}), start=1):
        meta = yaml.safe_load((table / "meta.yaml").read_text())
        for entry in meta["kinds"].values():
            entry["origin"] = origin
        (table / "meta.yaml").write_text(yaml.safe_dump(meta))
        with pytest.raises(TableError, match=r"must lie in the folder|cannot be read"):
            profiled()
        (table / ".writable").unlink()
        profiled(workloads=[dataclasses.replace(SHORT, prompt_tokens=SHORT.prompt_tokens + more)])
        (table / ".writable").symlink_to(tmp_path / "outside")
    assert not (tmp_path / "outside").exists()


def test_torch_itself_is_profiled_and_the_table_answers_its_space(profiled_tiny_table):
    model = LatencyModel(LatencyTable.load(profiled_tiny_table), CHAT)
    for _, operators in TINY.pure_models():
        assert set(model.estimate(TINY.build(operators, 96)).sources) == {"measured"}
