from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from invented_times import invent_device
from offenders import every
from one_line import one_line

from flashnas.base.errors import ConfigError, TableError
from flashnas.latency import schema
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.row_requests import RowRequest, contexts, groups, plan
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import WORKLOADS, Workload
from flashnas.network.model import Block
from flashnas.operators import operator_class
from flashnas.operators.attention.spec import SlidingWindowAttention
from flashnas.profiling import alone, inside_model
from flashnas.profiling import profile as profiling
from flashnas.profiling.device_timing import Effort, Measurement, median_interval, repeat
from flashnas.profiling.platforms import PLATFORMS
from flashnas.profiling.profile import profile
from flashnas.profiling.setup import DTYPES, Setup
from flashnas.profiling.table_folder import TableFolder
from flashnas.profiling.whole_model import filled_state
from flashnas.space import load_space

CHAT, TINY = WORKLOADS["chat"], load_space("tiny")


@pytest.fixture
def counting(monkeypatch):
    """Stands in for the clock: every row takes 7 us; keeps the groups that were measured."""
    seen = []

    def measure(group, space, job):
        seen.append(group)
        return {item: Measurement(7.0, 6.0, 8.0, 15) for item in group.items}

    monkeypatch.setattr(profiling, "measure_inside_model", measure)
    invent_device(monkeypatch)
    return seen


def profiled(folder, setup=None, **more):
    """The tiny space for the chat workload."""
    return profile(TINY, [CHAT], folder, setup or Setup(), **more)


def still_missing(folder):
    return TableFolder(folder, Setup()).missing(plan(TINY, [CHAT]))


def test_the_plan_names_every_operator_width_and_phase_once():
    items = plan(TINY, [CHAT, CHAT])
    assert len(items) == len(set(items))
    decode_a = [
        i for i in items if i.phase == "decode" and i.operator.startswith("a(") and i.hidden == 64
    ]
    assert [i.length for i in decode_a] == [517, 772]  # 4 meta tokens, 512 in, 256 out
    assert {i.length for i in items if i.operator.startswith("d(") and i.phase == "decode"} == {0}
    assert {i.length for i in items if i.phase == "prefill"} == {516}
    for phase in ("decode", "prefill"):
        names = {(i.operator.split("(")[0], i.hidden) for i in items if i.phase == phase}
        expected = {"d", "a", "m2", "f", "embedding"} | ({"head"} if phase == "decode" else set())
        assert names == {(kind, hidden) for kind in expected for hidden in (64, 96, 128)}


def test_contexts_span_the_workload_and_meet_the_window():
    assert contexts(operator_class("d")(), 1, 8192) == [0]
    assert contexts(operator_class("a")(), 1, 8192) == [1, 64, 256, 1024, 4096, 8192]
    assert contexts(SlidingWindowAttention(window=100), 1, 300) == [1, 64, 100, 256, 300]


def counts(result):
    return result["measured"], result["known"]


def test_only_what_is_missing_or_of_another_stack_is_measured(counting, tmp_path):
    folder = tmp_path / "table"
    number = len(plan(TINY, [CHAT]))
    assert counts(profiled(folder)) == (number, 0)
    assert counts(profiled(folder)) == (0, number)
    longer = Workload(name="longer", prompt_tokens=600, generated_tokens=10)
    more = profile(TINY, [CHAT, longer], folder, Setup())
    assert more["known"] == number
    assert more["measured"] > 0
    with pytest.raises(
        TableError, match=r"table: rows of threads 1 and 2 do not mix; profile each"
    ):
        profiled(folder, Setup(threads=2))


def test_modes_and_dtypes_are_rows_of_their_own(counting, tmp_path, monkeypatch):
    """So are those of a mode that only earlier versions measured."""
    folder = tmp_path / "table"
    with monkeypatch.context() as earlier:
        earlier.setattr(
            profiling,
            "measure_inside_model",
            lambda group, *_: {
                item: Measurement(7.0, 6.0, 8.0, 15, mode="compiled") for item in group.items
            },
        )
        rows = profiled(folder)["measured"]
    for setup in (Setup(), Setup(dtype="bfloat16")):
        assert counts(profiled(folder, setup)) == (rows, 0)
    assert not still_missing(folder)
    table = LatencyTable.load(folder)
    assert table.modes == ("compiled", "eager")
    assert table.default_mode == "eager"
    assert set(table.only("compiled").rows("operator_decode")["mode"]) == {"compiled"}
    assert len(table.only(None).frames["operator_decode"]) == 2 * len(
        table.only("compiled").frames["operator_decode"]
    )
    with pytest.raises(
        TableError, match=r"mode must be one of compiled, eager; got 'eagre' \(did you mean"
    ):
        LatencyModel(table, CHAT, mode="eagre")


def test_an_interrupted_job_keeps_what_it_measured(counting, tmp_path):
    folder = tmp_path / "table"

    def stop_after_two(measured, total):
        assert total == len(groups(plan(TINY, [CHAT])))
        if measured == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profiled(folder, progress=stop_after_two)
    done = sum(len(group.items) for group in counting)
    assert len(still_missing(folder)) == len(plan(TINY, [CHAT])) - done
    assert profiled(folder)["known"] == done
    assert len(counting) == len(set(counting)), "no group is measured twice"


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("table", lambda path: path.write_text("x"), "the table cannot be written: File exists"),
        (
            "table",
            lambda path: (path.mkdir(), (path / "thesis.tex").touch()),
            "must be a new folder or a latency table; it has thesis.tex",
        ),
        ("x" * 300, lambda path: None, "the table cannot be written: File name too long"),
    ],
)
def test_a_folder_that_is_no_table_is_refused_before_anything_is_measured(
    counting, tmp_path, name, make, words
):
    make(tmp_path / name)
    with pytest.raises(ConfigError, match=words):
        profiled(tmp_path / name)
    assert not counting


def test_two_processes_may_look_at_one_folder_at_once(counting, tmp_path, monkeypatch):
    """The other one has removed the file by which both find out that they can write."""
    really = Path.touch

    def touched_and_removed(path, *words, **more):
        really(path, *words, **more)
        path.unlink()

    monkeypatch.setattr(Path, "touch", touched_and_removed)
    TableFolder(tmp_path / "table", Setup())


def test_what_an_interrupted_first_write_left_is_continued(counting, tmp_path):
    first = tmp_path / "first"
    profiled(first)
    (first / "meta.yaml").unlink()
    (first / ".meta.yaml.abc").touch()
    assert profiled(first)["known"] == 0


def test_what_was_measured_while_the_device_was_slow_is_measured_again(
    counting, tmp_path, monkeypatch
):
    """The progress counts it."""
    probes = iter([100.0, 100.0, 150.0, 100.0] + [100.0] * 20)  # slow before the second group
    monkeypatch.setattr(PLATFORMS["cpu"], "probe_us", lambda: next(probes))
    calls, number = [], len(groups(plan(TINY, [CHAT])))
    record = profiled(tmp_path / "table", progress=lambda *done: calls.append(done))
    assert calls == [*((done, number) for done in range(number + 1)), (number + 1, number + 1)]
    assert counting[number:] == [counting[1]]
    assert record["measured_twice"] == len(counting[1].items)
    assert record["disturbed"] == 0
    assert record["probe_us"] == {"median": 100.0, "max": 100.0}
    (job,) = LatencyTable.load(tmp_path / "table").meta["jobs"]
    assert job["rows"] == len(plan(TINY, [CHAT]))


def test_drift_in_a_group_that_stays_is_recorded(tmp_path, monkeypatch):
    invent_device(monkeypatch)
    monkeypatch.setattr(
        profiling,
        "measure_inside_model",
        lambda group, space, job: {
            item: Measurement(
                7.0, 6.0, 8.0, 15, outliers=0.25, drift=0.4 if group.hidden == 64 else 0.01
            )
            for item in group.items
        },
    )
    record = profiled(tmp_path / "table")
    drifted = sum(item.hidden == 64 for item in plan(TINY, [CHAT]))
    assert record["disturbed"] == record["measured_twice"] == drifted
    assert (record["largest_drift"], record["outliers"]) == (0.4, 0.25)


def test_outliers_and_drift_of_repeats():
    steady = [10.0, 10.1, 10.2, 10.1] * 10
    assert Measurement.of(steady).outliers == 0
    assert Measurement.of([*steady, 100.0]).outliers == pytest.approx(1 / 41)
    assert Measurement.of([10.0] * 20 + [13.0] * 20).drift == pytest.approx(0.3)


def test_weights_rotate_over_copies_that_exceed_the_cache_but_not_the_model(monkeypatch):
    copies = []

    def time(calls, *_, **__):
        copies.append(len(calls))
        for call in calls:
            call()
        return Measurement(1.0, 1.0, 1.0, 3)

    monkeypatch.setattr(PLATFORMS["cpu"], "time", time)
    monkeypatch.setattr(alone, "BEYOND_CACHE_BYTES", 2**20)
    # 9 kB: as many as the model has layers; 2.4 MB: the least
    for hidden, expected in ((16, 9), (256, 2)):
        items = [RowRequest(phase, "f", hidden, 0, 1, 3) for phase in ("decode", "prefill")]
        assert list(alone.measure_alone(items, Setup(), max_copies=9)) == items
        assert copies[-2:] == [expected] * 2


def test_every_item_of_a_group_is_timed_inside_one_model(monkeypatch):
    job = Setup(effort=Effort(least=3, most=6, seconds=0.01))
    built, build = [], inside_model.build_model

    def keep(architecture, job):
        built.append(architecture)
        return build(architecture, job)

    monkeypatch.setattr(inside_model, "build_model", keep)
    for group in groups(item for item in plan(TINY, [CHAT]) if item.hidden == 64):
        rows = job.run(partial(inside_model.measure_inside_model, group, TINY, job))
        assert set(rows) == set(group.items)
        assert all(0 < row.p10_us <= row.latency_us <= row.p90_us for row in rows.values())
    kinds = [spec.kind for spec in built[0].operators]
    assert len({kinds.count(kind) for kind in ("a", "d", "m2", "f")}) == 1, (
        "every operator equally often"
    )
    assert built[0] == built[1]


@pytest.mark.parametrize("kind", ["a", "swa"])
def test_a_filled_state_has_the_context_that_is_timed(kind):
    spec = operator_class(kind)(head_dim=8, **({"window": 20} if kind == "swa" else {}))
    block = Block(spec, 32)
    state = filled_state(block, 2, 50)
    with torch.inference_mode():
        *_, after = block.step(torch.randn(2, 32), state)
    assert after.seen == 50
    assert after.kept == (20 if kind == "swa" else 50)
    assert after.keys_BGTK.shape[2] == after.kept, (
        "the cache must not grow, or copying it would be timed"
    )


def test_a_profiled_table_answers_its_space(profiled_tiny_table):
    model = LatencyModel(LatencyTable.load(profiled_tiny_table), CHAT)
    for _, operators in TINY.pure_models():
        estimate = model.estimate(TINY.build(operators, 96))
        assert set(estimate.sources) == {"measured"}
        assert 0 < estimate.lower_ms <= estimate.latency_ms <= estimate.upper_ms
    operators = TINY.pure_models()[0][1]
    deep, shallow = (model.estimate(TINY.build(operators[:n], 96)).latency_ms for n in (6, 2))
    assert deep > shallow


def test_a_table_of_another_device_is_not_continued(counting, tmp_path, monkeypatch):
    folder = tmp_path / "table"
    profiled(folder)
    monkeypatch.setattr(PLATFORMS["cpu"], "label", lambda: "Other CPU")
    with pytest.raises(TableError, match=r"but this is Other CPU; choose another --out"):
        profiled(folder)


@every(
    case=[
        (Setup, {"device": "gpu"}, "setup.device must be one of cpu, cuda; got 'gpu'"),
        (
            Setup,
            {"dtype": "int8"},
            "setup.dtype must be one of auto, float32, bfloat16; got 'int8'",
        ),
        (Setup, {"threads": 0}, "setup.threads must be at least 1; got 0"),
        (Setup, {"mode": "jit"}, "setup.mode must be one of auto, eager, cuda_graph; got 'jit'"),
        (
            Setup,
            {"mode": "cuda_graph"},
            "setup.mode cuda_graph needs --device cuda; got --device cpu",
        ),
        (Effort, {"seconds": 0}, "effort.seconds must be above 0; got 0.0"),
        (Effort, {"least": 9, "most": 8}, "effort.most must be at least 9; got 8"),
        (Effort, {"width": 0.0}, "effort.width must be above 0; got 0.0"),
    ]
)
def test_wrong_options_are_one_line(case):
    kind, options, words = case
    assert words in one_line(ConfigError, kind, **options)


def test_every_platform_of_a_table_can_be_timed():
    assert list(PLATFORMS) == list(schema.PLATFORMS)
    for name, platform in PLATFORMS.items():
        assert platform.name == name
        assert platform.mode in platform.modes
        assert set(platform.modes) <= set(schema.MODES)
        assert platform.dtype in DTYPES


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_line():
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        Setup(device="cuda")


def test_repeats_stop_when_the_median_is_known_or_the_time_is_over():
    steady = repeat(
        lambda i: 10.0 + i % 2 * 0.01, Effort(least=15, most=400, seconds=60, width=0.05)
    )
    assert steady.repeats == 15
    assert steady.latency_us == pytest.approx(10, rel=1e-2)
    rng = np.random.default_rng(0)
    noisy = repeat(
        lambda i: float(rng.lognormal(3, 1.5)), Effort(least=15, most=60, seconds=60, width=0.01)
    )
    assert noisy.repeats == 60
    assert noisy.p10_us < noisy.latency_us < noisy.p90_us


def test_the_median_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.lognormal(0, 0.5, (2000, 41))
    half = 1.96 * np.sqrt(41) / 2
    low, high = int(np.floor(20.5 - half)), int(np.ceil(20.5 + half))
    ordered = np.sort(samples, axis=1)
    covered = np.mean((ordered[:, low] <= 1) & (ordered[:, high] >= 1))
    assert 0.93 < covered < 0.99
    widths = (ordered[:, high] - ordered[:, low]) / np.median(samples, axis=1)
    assert np.allclose([median_interval(row) for row in samples[:50]], widths[:50])


def test_the_cpu_timer_uses_each_copy_in_turn():
    used = []
    calls = [lambda n=n: used.append(n) for n in range(3)]
    PLATFORMS["cpu"].time(calls, "eager", Effort(least=6, most=6, seconds=10))
    assert used == [0, 1, 2, 0, 1, 2, 0, 1, 2]
