"""Networks in llama.cpp: what its options are, which tables are of them, and llama.cpp itself."""

import dataclasses
import json
import re

import pytest
import yaml

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from one_line import one_line
from test_profile import SHORT, few_networks, make_space, narrow, prompt_ms, step_ms  # noqa: F401

from flashnas.api.measure import ProfileOptions
from flashnas.architecture import Architecture
from flashnas.base.errors import (
    ConfigError,
    DeviceError,
    ExportError,
    TableError,
)
from flashnas.base.system import usable_cores
from flashnas.cli.main import main
from flashnas.families.gguf import file
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.profiling import table_target
from flashnas.profiling.llama_cpp import child
from flashnas.profiling.llama_cpp import target as llama_cpp
from flashnas.profiling.llama_cpp.target import LlamaCpp
from flashnas.profiling.profile import profile
from flashnas.profiling.table_target import target_like

ATTENTION = "64(vocab=320): a(head_dim=32) f"
SMALL = "64(vocab=320): m2(head_dim=32,state=16) f a(head_dim=32) f"


def piece_of(context):
    return -(-context // 256) * 256


@pytest.fixture
def clock(monkeypatch, few_networks):
    """A stand-in for llama.cpp: known times, attention in whole pieces of 256 tokens; wall times are useless, as on a
    busy machine."""
    seen = []

    def times(file, *, prompts, contexts, **options):
        network = seen[-1]
        prompts_ms = [prompt_ms(network, tokens) for tokens in prompts]
        steps_ms = [step_ms(network, piece_of(context)) for context in contexts]
        useless = {"wall_ms": 7.0 * len(seen)}
        return {
            "prompts": [{"cpu_ms": ms, **useless} for ms in prompts_ms],
            "contexts": [{"cpu_ms": ms, **useless} for ms in steps_ms],
        }

    monkeypatch.setattr(llama_cpp, "time_requests", times)
    monkeypatch.setattr(file, "write_random_file", lambda path, network, _: seen.append(network))
    monkeypatch.setattr(llama_cpp, "_build", lambda: {"build": "test", "system": "test"})
    return seen


def test_rows_are_for_the_middles_of_pieces(narrow, clock, tmp_path):
    setup, folder = LlamaCpp(), tmp_path / "table"
    assert setup.timed_steps((), 301, 700) == {384: range(457, 505), 640: range(713, 761)}
    assert setup.timed_steps((), 3, 5) == {128: range(201, 249)}
    record = profile(narrow, [SHORT], folder, setup)
    assert record["regression"]["decode"]["max_error"] < 1e-3
    table = LatencyTable.load(folder)
    assert (table.mode, table.dtypes) == ("llama.cpp", ("q8_0",))
    attention = table.frames["operator_decode"]
    attention = attention[attention["operator"].astype(str).str.startswith("a(")].set_index(
        "context"
    )["latency_us"]
    assert dict(attention) == pytest.approx(
        {301: 20.24, 384: 20.24, 640: 25.36, 700: 25.36}, rel=4e-3
    )


def test_several_sequences_are_refused(narrow, tmp_path):
    with pytest.raises(ConfigError, match="one sequence at a time; workload many has batch 8"):
        profile(
            narrow, [Workload(name="many", batch=8, generated_tokens=4)], tmp_path / "t", LlamaCpp()
        )


def test_a_table_of_another_llama_cpp_is_refused(narrow, clock, tmp_path, monkeypatch):
    profile(
        narrow, [SHORT], tmp_path / "table", LlamaCpp(flash_attention=True, threads=2), rounds=1
    )
    table = LatencyTable.load(tmp_path / "table")
    assert target_like(table, dtype="q8_0") == LlamaCpp(flash_attention=True, threads=2)
    monkeypatch.setattr(llama_cpp, "version", lambda name: "1.0")
    with pytest.raises(
        TableError,
        match=r"has rows of llama\.cpp-.*, but this machine runs llama\.cpp-xllamacpp-1\.0-"
        r"2t-q8_0-flash-attention-f16-cache; measure them anew",
    ):
        target_like(table, dtype="q8_0")


def test_rows_of_other_settings_never_meet(narrow, clock, tmp_path):
    """A table has one number of threads and kind of attention."""
    one, folder = LlamaCpp(), tmp_path / "table"
    profile(narrow, [SHORT], folder, one, rounds=1)
    for name, value, there in (
        ("threads", 2, 1),
        ("flash_attention", True, False),
    ):
        other = dataclasses.replace(one, **{name: value})
        with pytest.raises(
            TableError,
            match=rf"^{folder}: rows of {name.replace('_', ' ')} {there} and {value} do not"
            " mix; profile each into a folder",
        ):
            profile(narrow, [SHORT], folder, other)
    assert LlamaCpp(threads=2).table_name() == f"{one.table_name()}_2t"
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    meta["stacks"]["other"] = {**meta["stacks"][one.stack], "threads": 2}
    meta["kinds"]["operator_prefill"]["constants"] = {"stack": "other"}
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    with pytest.raises(TableError, match=r"table: rows of threads 1 and 2 do not mix"):
        LatencyModel(str(folder), SHORT)


def test_what_is_timed_has_at_most_a_thread_for_each_usable_core(
    narrow, clock, tmp_path, monkeypatch
):
    """Options that ask for more are refused, and so is a table that was timed with more."""
    cores = usable_cores()
    assert ProfileOptions(threads="all").threads == cores
    for threads in (0, cores + 1, "two", True, 1.5):
        assert one_line(ConfigError, ProfileOptions, threads=threads) == (
            f"profile.threads must be all or a whole number from 1 to {cores}, the usable cores; got {threads!r}"
        )
    profile(narrow, [SHORT], tmp_path / "table", LlamaCpp(threads=2), rounds=1)
    monkeypatch.setattr(table_target, "usable_cores", lambda: 1)
    assert "was timed with 2 threads, but this process may use 1 cores" in one_line(
        TableError, target_like, LatencyTable.load(tmp_path / "table"), dtype="q8_0"
    )


def test_networks_that_llama_cpp_cannot_hold_are_told_apart():
    assert LlamaCpp().holds(Architecture.parse(SMALL))
    assert not LlamaCpp().holds(Architecture.parse("64(vocab=320): m2(head_dim=32,state=16) f"))
    message = one_line(ExportError, LlamaCpp(weights="q4_k").check_holds, Architecture.parse(SMALL))
    assert "have 64; take sizes" in message


# -- llama.cpp itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("generated", [3, 600])
def test_a_request_is_timed(generated):
    work = Workload(prompt_tokens=20, generated_tokens=generated)
    found = LlamaCpp(weights="f16").time_request(Architecture.parse(SMALL), work)
    assert 0 < found["tpot_ms"] < 100
    assert found["ttft_ms"] > 0


def test_steps_read_tokens_that_differ(tmp_path):
    """So that a router sends them to different experts; the most likely one would be the same."""
    file.write_random_file(tmp_path / "m.gguf", Architecture.parse(SMALL), "f16")
    options = {"threads": 1, "flash_attention": False, "cache_type": "f16"}
    found = child.time_requests(
        tmp_path / "m.gguf", prompts=[], contexts=[60], steps=48, vocab=320, **options
    )
    assert found["contexts"][0]["different_tokens"] > 16


def test_llama_cpp_that_ends_is_one_line(monkeypatch):
    monkeypatch.setattr(child, "__file__", "/nowhere/child.py")
    message = one_line(DeviceError, LlamaCpp().time_request, Architecture.parse(SMALL), SHORT)
    assert re.match(r"64\(.*: llama\.cpp ended with exit code 2: .*/nowhere", message)


@pytest.mark.slow
def test_the_commands_measure_and_validate(tmp_path, capsys):
    make_space(tmp_path / "space.yaml", 0, (64,))
    asked = (
        f"--runtime llama.cpp --space {tmp_path}/space.yaml --workload batch=1,prompt=8,generated=8"
    )
    table = f"{tmp_path}/table"
    assert main(f"profile {asked} --weights f16 --out {table}".split()) == 0
    assert (
        main(
            f"validate {asked.removeprefix('--runtime llama.cpp ')} --table {table} -n 3 --json".split()
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["architectures"]) == 3
    assert found["mode"] == "llama.cpp"
