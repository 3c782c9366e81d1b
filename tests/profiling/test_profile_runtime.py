"""Rows of operators from whole networks: the regression by itself, with a stand-in for the clock,
and in llama.cpp.
"""

import dataclasses
import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from invented_times import invent_device
from one_line import one_line

from flashnas.api.measure import ProfileOptions
from flashnas.architecture import Architecture
from flashnas.base.errors import (
    ConfigError,
    DeviceError,
    DeviceMemoryError,
    ExportError,
    SpaceError,
    TableError,
)
from flashnas.base.settings import usable_cores
from flashnas.cli.main import main
from flashnas.latency import regression
from flashnas.latency.memory import memory_bytes
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.regression import REST, choose_networks, counts, fit, narrowed
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import sample
from flashnas.latency.workload import Workload
from flashnas.profiling import target
from flashnas.profiling.llama_cpp import child
from flashnas.profiling.llama_cpp import target as llama_cpp
from flashnas.profiling.llama_cpp.target import LlamaCpp
from flashnas.profiling.platforms import PLATFORMS
from flashnas.profiling.profile_runtime import JOURNAL, profile_runtime
from flashnas.profiling.target import rows_of, target_like
from flashnas.space import load_space

SPACE = """\
template: layerwise
model: {vocab: 320, tied: true, meta_tokens: META}
widths: [64, 96]
layers:
  depth: [2, 8]
  require: [m2, a]
  choices: ["m2(head_dim=32,state=16) f", "a(head_dim=32) f"]
"""
CHAT = Workload(name="short", prompt_tokens=300, generated_tokens=400)
SMALL = "64(vocab=320): m2(head_dim=32,state=16) f a(head_dim=32) f"


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE.replace("META", "1"))
    return load_space(str(tmp_path / "space.yaml"))


@pytest.fixture
def narrow(tmp_path):
    """Of one width, without meta tokens."""
    (tmp_path / "narrow.yaml").write_text(SPACE.replace("META", "0").replace("[64, 96]", "[64]"))
    return load_space(str(tmp_path / "narrow.yaml"))


def piece_of(context):
    return -(-context // 256) * 256


def ffn_share(network):
    """Of the width of the FFNs of the space."""
    ffn = next(spec for spec in network.canonical().operators if spec.kind == "f")
    return ffn.intermediate / type(ffn)().resolved(network.hidden).intermediate


def step_ms(network, context):
    """What the stand-in takes for a decode step; attention is paid for whole pieces of 256
    tokens.
    """
    costs = {"m2": 0.02, "a": 0.01 + -(-context // 256) * 256 * 2e-5}
    costs["f"] = 0.03 * network.hidden / 64 * ffn_share(network)
    return 0.05 + sum(costs[spec.kind] for spec in network.operators)


def prompt_ms(network, tokens):
    costs = {"m2": 0.004, "a": 0.003, "f": 0.002 * ffn_share(network)}
    return 0.06 + tokens * sum(costs[spec.kind] for spec in network.operators)


@pytest.fixture
def clock(monkeypatch):
    """A stand-in for llama.cpp: known times, and the networks that were timed; wall times are
    useless, as on a busy machine."""
    seen = []

    def times(self, network, prompts, contexts, steps):
        seen.append(network)
        cpu_ms = {
            "prompts": [prompt_ms(network, prompt) for prompt in prompts],
            "contexts": [step_ms(network, context) for context in contexts],
        }
        return {
            name: [{"cpu_ms": ms, "wall_ms": 7.0 * len(seen)} for ms in values]
            for name, values in cpu_ms.items()
        }

    monkeypatch.setattr(regression, "POOL", 8)  # of a space with few networks
    monkeypatch.setattr(regression, "BOOTSTRAPS", 40)
    monkeypatch.setattr(LlamaCpp, "times", times)
    monkeypatch.setattr(llama_cpp, "_build", lambda: {"build": "test", "system": "test"})
    invent_device(monkeypatch)
    return seen


def profiled(space, folder, setup=None, progress=lambda *_: None, workload=CHAT):
    return profile_runtime(space, [workload], folder, setup or LlamaCpp(), progress)


# -- regression ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.5, 50), min_size=3, max_size=3), st.integers(0, 1000))
def test_the_fit_finds_what_the_times_were_made_of(values, seed):
    rng = np.random.default_rng(seed)
    rows = [
        {REST: 1.0, "m": float(rng.integers(1, 9)), "a": float(rng.integers(1, 9))}
        for _ in range(10)
    ]
    if np.linalg.matrix_rank([list(row.values()) for row in rows]) < 3:
        return
    names = REST, "m", "a"
    times = [
        sum(row[name] * value for name, value in zip(names, values, strict=True)) for row in rows
    ]
    found = fit(rows, times, rng)
    assert [found.values[name][0] for name in names] == pytest.approx(values, rel=1e-6)
    assert max(map(abs, found.errors)) < 1e-9
    noisy = fit(rows, [time * (1 + 0.02 * rng.standard_normal()) for time in times], rng)
    for middle, low, high in noisy.values.values():
        assert 0 <= low <= middle <= high


def test_networks_tell_paired_operators_apart(space):
    networks = choose_networks(space, 64, np.random.default_rng(0), LlamaCpp().check_holds)
    assert (
        len({network.hash for network in networks}) == len(networks) == 13
    )  # 2 x 4 unknowns + 2, and 3 narrow ones
    rows = [counts(network, space.kinds()) for network in networks]
    names = list(rows[0])
    assert np.linalg.matrix_rank([[row.get(name, 0) for name in names] for row in rows]) == 4
    wide, narrow = networks[0], narrowed(networks[0])
    ffn = next(name for name in names if name.startswith("f("))
    assert counts(narrow, space.kinds())[ffn] == pytest.approx(
        0.5 * counts(wide, space.kinds())[ffn], rel=0.2
    )


def test_spaces_that_cannot_be_timed_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"llama\.cpp cannot hold this network"):
        choose_networks(load_space("tiny"), 64, np.random.default_rng(0), LlamaCpp().check_holds)
    (tmp_path / "one.yaml").write_text(SPACE.replace("META", "0").replace("[2, 8]", "[2, 2]"))
    with pytest.raises(SpaceError, match=r"gave only [24] networks of width 64; 10 are needed"):
        choose_networks(
            load_space(str(tmp_path / "one.yaml")),
            64,
            np.random.default_rng(0),
            LlamaCpp().check_holds,
        )


# -- the measurement -------------------------------------------------------------------------------


def test_a_table_predicts_networks_that_were_not_timed(space, clock, tmp_path):
    setup, folder = LlamaCpp(), tmp_path / "table"
    record = profiled(space, folder, setup)
    assert len(clock) == 3 * 2 * 13  # rounds, widths, networks
    assert record["regression"]["decode"]["max_error"] < 1e-3
    assert record["disturbed_networks"] == 0
    table = LatencyTable.load(folder)
    assert table.modes == ("llama.cpp",)
    assert rows_of(table, "llama.cpp", None) == "llama.cpp"
    with pytest.raises(
        TableError, match=r"table: table table is of llama\.cpp; got --runtime torch; leave it out"
    ):
        rows_of(table, "torch", None)
    assert table.dtypes == ("q8_0",)
    model, timed = LatencyModel(table, CHAT), {network.hash for network in clock}
    for network in sample(space, model, 10, np.random.default_rng(1)):
        assert network.hash not in timed
        estimate = model.estimate(network)
        steps = [step_ms(network, 301 + n) for n in range(1, 401)]
        assert estimate.tpot_ms == pytest.approx(np.mean(steps), rel=5e-3)
        assert estimate.ttft_ms == pytest.approx(prompt_ms(network, 301), rel=1e-3)
        assert estimate.sources == {"measured": pytest.approx(1)}
    before = len(clock)
    again = profiled(space, folder, setup)
    assert (again, len(clock)) == ({"measured": 0, "known": record["measured"]}, before)


def test_an_interrupted_measurement_continues(space, clock, tmp_path):
    def stop(number, everything):
        if number == 30:
            raise KeyboardInterrupt

    folder = tmp_path / "table"
    with pytest.raises(KeyboardInterrupt):
        profiled(space, folder, LlamaCpp(), stop)
    with open(folder / JOURNAL, "a") as file:
        file.write('{"hash": "torn')
    profiled(space, folder)
    assert len(clock) == 3 * 2 * 13
    lines = (folder / JOURNAL).read_text().splitlines()
    assert len({(json.loads(line)["hash"], json.loads(line)["round"]) for line in lines}) == len(
        clock
    )


def test_the_table_of_another_device_is_refused_before_anything_is_timed(
    narrow, clock, tmp_path, monkeypatch
):
    """Also where it lacks no row."""
    folder = tmp_path / "table"
    profiled(narrow, folder)
    monkeypatch.undo()
    monkeypatch.setattr(LlamaCpp, "times", lambda *_: pytest.fail("a network was timed"))
    monkeypatch.setattr(llama_cpp, "_build", lambda: {"build": "test", "system": "test"})
    monkeypatch.setattr(PLATFORMS["cpu"], "label", lambda: "another CPU")
    with pytest.raises(
        TableError, match=r"the table is of .*, but this is another CPU; choose another --out"
    ):
        profiled(narrow, folder)


def test_a_damaged_journal_is_one_line(space, clock, tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / JOURNAL).write_text('{"hash": 1}\n')
    with pytest.raises(TableError, match=r"networks\.jsonl:1: timing"):
        profiled(space, folder)


def test_what_is_larger_than_the_memory_is_refused_before_a_network_is_built(
    space, clock, tmp_path, monkeypatch
):
    network = Architecture.parse(
        "64(vocab=320,tied=false): 9x(m2(head_dim=32,state=16) f) a(head_dim=32) f"
    )
    once = sum(spec.params(64) for spec in set(network.canonical().operators))
    assert LlamaCpp().making_bytes(network) == 4 * (4 * 320 * 64 + once)
    assert PLATFORMS["cpu"].free_bytes() > 0
    monkeypatch.setattr(PLATFORMS["cpu"], "free_bytes", lambda: 100_000)
    line = (
        r"^llama\.cpp is timed with whole networks: one of width \d+ with \d+ operators needs 0\.0"
        r" GB of memory,"
        r" but 0\.0 GB are free; take smaller widths or a shorter workload$"
    )
    with pytest.raises(DeviceMemoryError, match=line):
        LlamaCpp().time_request(Architecture.parse(SMALL), Workload(generated_tokens=8))
    with pytest.raises(DeviceMemoryError, match=line):
        profiled(space, tmp_path / "table")
    assert clock == []


def test_several_sequences_are_refused(space, tmp_path):
    with pytest.raises(ConfigError, match="one sequence at a time; workload many has batch 8"):
        profiled(space, tmp_path / "t", workload=Workload(name="many", batch=8, generated_tokens=4))


def test_a_table_of_another_llama_cpp_is_refused(narrow, clock, tmp_path, monkeypatch):
    flash = LlamaCpp(flash_attention=True, threads=2)
    profiled(narrow, tmp_path / "table", flash)
    table = LatencyTable.load(tmp_path / "table")
    assert target_like(table, dtype="q8_0") == flash
    with monkeypatch.context() as other:
        other.setattr(llama_cpp, "_build", lambda: {"build": "mine", "system": "test"})
        assert (
            "table: table table was measured with another build of llama.cpp: its build is test,"
            " that of this machine mine; measure it anew"
        ) in one_line(TableError, target_like, table, dtype="q8_0")
        assert target_like(table, dtype="q8_0", any_stack=True)
        with pytest.raises(
            TableError,
            match=r"--out .*table: the table was measured with another build of llama\.cpp",
        ):
            profiled(
                narrow, table.path, flash, workload=dataclasses.replace(CHAT, prompt_tokens=600)
            )
    monkeypatch.setattr(llama_cpp, "version", lambda name: "1.0")
    with pytest.raises(
        TableError,
        match=r"has rows of llama\.cpp-.*, but this machine runs llama\.cpp-xllamacpp-1\.0-"
        r"2t-q8_0-flash-attention-f16-cache; measure them anew",
    ):
        target_like(table, dtype="q8_0")


def test_rows_of_other_settings_never_meet(narrow, clock, tmp_path):
    """A table has one number of threads, kind of attention and type of caches; memory counts that
    type.
    """
    one, folder = LlamaCpp(), tmp_path / "table"
    profiled(narrow, folder, one)
    for name, value, there in (
        ("threads", 2, 1),
        ("flash_attention", True, False),
        ("cache_type", "f32", "f16"),
    ):
        other = dataclasses.replace(one, **{name: value})
        with pytest.raises(
            TableError,
            match=rf"^{folder}: rows of {name.replace('_', ' ')} {there} and {value} do not"
            " mix; profile each into a folder",
        ):
            profiled(narrow, folder, other)
    assert LlamaCpp(threads=2).table_name() == f"{one.table_name()}_2t"
    file, gigabytes = folder / "meta.yaml", {}
    text = file.read_text()
    for name in ("f32", "bf16", "q8_0"):
        file.write_text(text.replace("cache_type: f16", f"cache_type: {name}"))
        model = LatencyModel(str(folder), CHAT)
        gigabytes[name] = model.estimate(Architecture.parse(SMALL)).memory_gb
    values = 2 * 32 * CHAT.context  # keys and values of the attention, and a few of a convolution
    assert 1e9 * (gigabytes["f32"] - gigabytes["bf16"]) == pytest.approx(2 * values, rel=0.02)
    assert 1e9 * (gigabytes["bf16"] - gigabytes["q8_0"]) == pytest.approx(
        (2 - 34 / 32) * values, rel=0.02
    )
    meta = yaml.safe_load(text)
    meta["stacks"]["other"] = {**meta["stacks"][one.stack], "threads": 2}
    meta["kinds"]["operator_prefill"]["constants"]["stack"] = "other"
    file.write_text(yaml.safe_dump(meta))
    with pytest.raises(TableError, match=r"table: rows of threads 1 and 2 do not mix"):
        LatencyModel(str(folder), CHAT)


def test_what_is_timed_has_at_most_a_thread_for_each_usable_core(
    narrow, clock, tmp_path, monkeypatch
):
    """Options that ask for more are refused, and so is a table that was timed with more."""
    cores = usable_cores()
    assert ProfileOptions(threads="all").threads == cores
    for threads in (0, cores + 1, "two", True, 1.5):
        assert one_line(ConfigError, ProfileOptions, threads=threads) == (
            f"profile.threads must be all or a whole number from 1 to {cores}, the usable cores;"
            f" got {threads!r}"
        )
    folder = tmp_path / "table"
    profiled(narrow, folder, LlamaCpp(threads=2))
    monkeypatch.setattr(target, "usable_cores", lambda: 1)
    assert "was timed with 2 threads, but this process may use 1 cores" in one_line(
        TableError, target_like, LatencyTable.load(folder), dtype="q8_0"
    )


def test_memory_counts_the_type_of_keys_and_values(monkeypatch):
    """What is refused before it is timed needs less with keys and values of 8 bits than of 32."""
    network = Architecture.parse(
        "512(vocab=64): m2(head_dim=32,state=16) f 20x(a(head_dim=32,kv_heads=16) f)"
    )
    long = dataclasses.replace(CHAT, prompt_tokens=200_000)
    needed = [
        memory_bytes(network, long, 1, "q8_0", cache_type=name) for name in ("q8_0", "f16", "f32")
    ]
    assert needed == sorted(needed)
    monkeypatch.setattr(PLATFORMS["cpu"], "free_bytes", lambda: needed[1])
    monkeypatch.setattr(LlamaCpp, "times", lambda *_: 1 / 0)
    small, large = LlamaCpp(cache_type="q8_0", flash_attention=True), LlamaCpp(cache_type="f32")
    with pytest.raises(ZeroDivisionError):
        small.time_request(network, long)
    assert "needs" in one_line(DeviceMemoryError, large.time_request, network, long)


def test_networks_that_llama_cpp_cannot_hold_are_told_apart():
    assert LlamaCpp().holds(Architecture.parse(SMALL))
    assert not LlamaCpp().holds(Architecture.parse("64(vocab=320): m2(head_dim=32,state=16) f"))
    small, other = map(
        Architecture.parse, (SMALL, SMALL.replace("a(head_dim=32)", "a(head_dim=16)"))
    )
    message = one_line(ExportError, LlamaCpp(weights="q4_k").check_holds, small)
    assert "have 64; take sizes" in message
    cache = LlamaCpp(cache_type="q8_0", flash_attention=True)
    cache.check_holds(small)
    message = one_line(ExportError, cache.check_holds, other)
    assert message.endswith("the heads of operator 2, 'a', have 16; take --cache-type f16")
    message = one_line(ConfigError, LlamaCpp, cache_type="q4_0", flash_attention=True)
    assert (
        "must be one of f32, f16, bf16, q8_0; got 'q4_0'; types of fewer bits gave NaN" in message
    )


# -- llama.cpp itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("generated", [3, 600])
def test_a_request_is_timed(generated):
    work = Workload(prompt_tokens=20, generated_tokens=generated)
    found = LlamaCpp(weights="f16").time_request(Architecture.parse(SMALL), work)
    assert 0 < found.tpot_ms < 100
    assert found.ttft_ms > 0
    assert found.latency_ms == pytest.approx(found.ttft_ms + generated * found.tpot_ms)


def test_llama_cpp_that_ends_is_one_line(monkeypatch):
    monkeypatch.setattr(child, "__file__", "/nowhere/child.py")
    line = one_line(DeviceError, LlamaCpp().time_request, Architecture.parse(SMALL), CHAT)
    assert line.startswith("64(")
    assert ": llama.cpp ended with exit code 2: " in line
    assert "/nowhere" in line


@pytest.mark.slow
def test_the_commands_measure_and_validate(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text(SPACE.replace("META", "0").replace("[64, 96]", "[64]"))
    shared = (
        f"--runtime llama.cpp --space {tmp_path}/space.yaml --workload batch=1,prompt=8,generated=8"
    )
    for command in (
        f"profile {shared} --weights f16 --out {tmp_path}/table",
        f"validate {shared} --table {tmp_path}/table -n 3 --json",
    ):
        assert main(command.split()) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["architectures"]) == 3
    assert found["mode"] == "llama.cpp"
