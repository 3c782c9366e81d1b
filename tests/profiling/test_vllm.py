"""Networks in vLLM: the process that times them, with a stand-in for vLLM whose clock is known."""

import json
import re
import sys
from pathlib import Path

import fake_vllm.vllm as fake
import pytest

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError, ExportError, TableError
from flashnas.cli.main import main
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import validate
from flashnas.latency.workload import Workload
from flashnas.profiling import regression
from flashnas.profiling.profile import profile
from flashnas.profiling.session import reason_of
from flashnas.profiling.table_target import target_like
from flashnas.profiling.vllm import session, target
from flashnas.profiling.vllm.target import VARIABLE, Vllm
from flashnas.space import load_space

GPU = {
    "version": "0.32.0",
    "torch": "2.13.0",
    "device": "cuda",
    "label": "NVIDIA Imaginary 80GB",
    "memory_bytes": 8 * 10**10,
    "peak_flops": 1e15,
    "bandwidth_bytes_s": 3e12,
}
FAKE = Path(fake.__file__).parents[1]
SHORT = Workload(name="short", prompt_tokens=60, generated_tokens=90)
SPACE = """\
template: served
families: [granite]
vocab: 320
params: 1M..80M
layers: [4, 9]
"""
SMALL = (
    "256(vocab=320): m2(head_dim=64,state=128) f a(head_dim=64,kv_heads=4,rope_share=0) f"
    " 2x(m2(head_dim=64,state=128) f)"
)
QWEN = "512: gd(head_dim=128) f a(heads=2,head_dim=256,qk_norm=true,out_gate=true) f"
LFM2 = "512: conv f a(head_dim=64,qk_norm=true,rope_theta=1000000) f"


@pytest.fixture
def interpreter(monkeypatch):
    """This interpreter has the stand-in."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv(VARIABLE, sys.executable)
    yield sys.executable
    for device in ("cpu", "cuda"):
        session.running(sys.executable, device, 1).end()
    for cached in (session.describe, session.running):
        cached.cache_clear()


@pytest.fixture
def gpu(interpreter, monkeypatch, tmp_path):
    """The stand-in on a GPU; returns what it was started with so far."""
    monkeypatch.setenv("FAKE_VLLM", str(tmp_path / "starts"))
    monkeypatch.setattr(regression, "POOL", 8)
    monkeypatch.setattr(regression, "BOOTSTRAPS", 20)
    monkeypatch.setattr(target, "describe", lambda python: session.Described(**GPU))
    return lambda: [json.loads(line) for line in (tmp_path / "starts").read_text().splitlines()]


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return load_space(str(path))


def truth_ms(network):
    """Milliseconds of the prompt and of the mean step of SHORT in the stand-in."""
    config = {
        "hidden_size": network.hidden,
        "layer_types": ["attention" if s.kind == "a" else "" for s in network.operators[::2]],
    }
    step_s, token_s, context_s = fake.layers_s(config)
    # the first token is drawn by the step that reads the prompt
    context = SHORT.prompt_tokens + (SHORT.generated_tokens + 1) / 2
    prompt_ms = 1000 * (step_s + token_s * SHORT.prompt_tokens)
    return prompt_ms, 1000 * (step_s + context_s * context)


# -- the table -------------------------------------------------------------------------------------


def test_the_table_of_a_family_predicts_networks_that_were_not_timed(gpu, space, tmp_path):
    folder = tmp_path / "table"
    record = profile(space, [SHORT], folder, Vllm())
    assert len(space.hidden_sizes) > 3, "the widths are fitted together"
    assert len(gpu()) == record["networks"] < 30
    assert len({start["pid"] for start in gpu()}) == 1, "one process answers all questions"
    assert {start["max_num_batched_tokens"] for start in gpu()} == {8192}
    table = LatencyTable.load(folder)
    assert (table.device.platform, table.device.label) == ("cuda", GPU["label"])
    assert table.mode == "vllm"
    model, timing = LatencyModel(table, SHORT), target_like(table, dtype="bfloat16")
    assert timing == Vllm(dtype="bfloat16")
    found = validate(model, space, lambda a: timing.time_request(a, SHORT), count=5, rounds=1)
    for compared in found["architectures"]:
        times = truth_ms(Architecture.parse(compared["notation"]))
        measured = [compared["measured"][name] for name in ("ttft_ms", "tpot_ms")]
        assert measured == pytest.approx(times, rel=1e-6)
    assert max(summary["max_error"] for summary in found["metrics"]) < 0.04
    assert min(summary["spearman"] for summary in found["metrics"]) > 0.999


def test_a_network_that_ends_vllm_is_left_out_and_the_rest_goes_on(
    gpu, space, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAKE_VLLM_BREAKS", "7")
    record = profile(space, [SHORT], tmp_path / "table", Vllm())
    broken = [start for start in gpu() if start["model"] is not None]
    failed = [note for note in record["notes"] if note.startswith("left out: ")]
    assert 0 < len(failed) < len(broken)
    assert all(note.endswith("an illegal memory access was encountered") for note in failed)
    # a process that failed is not asked again
    assert len({start["pid"] for start in gpu()}) == 1 + len(failed)


def test_a_vllm_that_never_answers_ends_the_profile(gpu, space, tmp_path):
    wrong = Vllm(engine_option=("enforce_eagre=true",))
    with pytest.raises(DeviceError, match="3 networks failed: vLLM ended with exit code 1: Type"):
        profile(space, [SHORT], tmp_path / "table", wrong)
    assert not (tmp_path / "table" / "meta.yaml").exists()


# -- the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 6])
def test_a_step_is_timed_after_all_prompts_are_read(gpu, batch):
    """Sequences whose prompts are read early make tokens while the others' are read."""
    network = Architecture.parse(SMALL)
    options = ("max_num_batched_tokens=512",)
    times = Vllm(engine_option=options).times(network, batch, [300], [range(301, 309)])
    config = {"hidden_size": 256, "layer_types": ["", "attention", "", ""]}
    step_s, token_s, context_s = fake.layers_s(config)
    contexts = [1000 * (step_s + context_s * seen) for seen in range(301, 309)]
    assert times.steps == [pytest.approx(sum(contexts) / 8, rel=0.01)]
    assert times.prompts[0] == pytest.approx(1000 * 300 * batch * token_s, rel=0.3)


def test_a_cpu_is_timed_in_the_same_way(interpreter):
    found = Vllm(threads=1)
    assert (found.device, found.dtype_name) == ("cpu", "float32")
    assert found.stack == "vllm-0.32.0-1t"
    assert found.label() == found.platform.label()
    network = Architecture.parse(SMALL)
    times = found.times(network, 2, [40], [range(50, 98)])
    step_s, _, context_s = fake.layers_s(
        {"hidden_size": 256, "layer_types": ["", "attention", "", ""]}
    )
    assert times.steps == [pytest.approx(1000 * (step_s + context_s * 73.5), rel=0.01)]


# -- what a user can get wrong ---------------------------------------------------------------------


def test_errors_name_what_vllm_lacks(interpreter, monkeypatch, tmp_path):
    described = session.Described(**{**GPU, "device": "cpu"})
    monkeypatch.setattr(target, "describe", lambda python: described)
    for text, reason in (
        (QWEN, r"Qwen3\.5 in vLLM needs --dtype bfloat16; got float32 on a CPU"),
        (LFM2, "LFM2 in vLLM needs a GPU"),
        ("512: m2(head_dim=64,state=128) f gd(head_dim=128) f", "vLLM cannot hold this network"),
    ):
        with pytest.raises(ExportError, match=reason):
            Vllm().check_holds(Architecture.parse(text))
    with pytest.raises(ConfigError, match=r"vllm.engine_option must be NAME=VALUE.* got 'eager'"):
        Vllm(engine_option=("eager",))
    for text in (
        *("seed=1", "x={", "x=2020-01-01", "x=!!binary aGk=", "x=*a", "x=fp8", "x=NaN", "x="),
    ):
        with pytest.raises(ConfigError, match=rf"must be .*; got '{re.escape(text)}'"):
            Vllm(engine_option=(text,))
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setattr(target, "describe", session.describe)
    with pytest.raises(ConfigError, match="ModuleNotFoundError: No module named 'vllm'"):
        Vllm()
    with pytest.raises(ConfigError, match="nowhere cannot be started: No such file"):
        Vllm(vllm_python="nowhere")


def test_the_reason_is_that_of_the_process_that_failed_first():
    """As vLLM 0.32 prints it, shortened."""
    said = """\
(MainProcess pid=1) WARNING 11-30 20:00:01 [base.py:380] ValueError: Tokenizer not available
(Worker pid=3) ERROR 11-30 20:08:00 [multiproc_executor.py:953] AssertionError: num_heads (7)
Exception: WorkerProc initialization failed due to an exception in a background process.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
    assert reason_of(said).endswith("AssertionError: num_heads (7)")
    assert reason_of("INFO fine\nValueError: wrong\n") == "ValueError: wrong"


def test_the_command_says_what_is_missing_in_one_line(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    for words, rule in (
        (["--runtime", "vllm", "--space", "granite"], "--vllm-python PATH must name"),
        (["--engine-option", "a=1"], "--engine-option is for --runtime vllm; got --runtime torch"),
        (["--space", "tiny", "--params", "1M..2M"], "--params needs families of networks; got"),
        (["--space", "granite", "--params", "many"], "--params must be a range such as"),
    ):
        assert main(["profile", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert rule in line


@pytest.mark.parametrize(
    "answer",
    [
        *("null", "[]", "7", '"x"', "{}", '{"prompts": 1, "steps": 2}', '{"version": "1"}'),
        *('{"prompts": [], "steps": []}', '{"prompts": [[]], "steps": [[1]]}', "1\nfor ever"),
        *('{"prompts": [[NaN]], "steps": [[1]]}', '{"prompts": [[0]], "steps": [[1]]}'),
    ],
)
def test_an_interpreter_that_answers_otherwise_is_one_line(answer, gpu, tmp_path, monkeypatch):
    fake_python = tmp_path / "python"
    fake_python.write_text(f"#!/bin/sh\nread question\necho '{answer}'\n")
    fake_python.chmod(0o755)
    timing = Vllm(vllm_python=str(fake_python))
    with pytest.raises(DeviceError, match=r"[Tt]he answer of vLLM|times"):
        timing.times(Architecture.parse(SMALL), 1, [40], [range(50, 98)])
    session.describe.cache_clear()
    with pytest.raises(ConfigError, match=r"--vllm-python .*the answer of vLLM"):
        session.describe(str(fake_python))


@pytest.mark.parametrize("option", ['worker_cls="os.system"', "trust_remote_code=true"])
def test_a_table_names_no_class_for_vllm(option, gpu, space, tmp_path):
    """Arguments of vllm.LLM in meta.yaml of a stranger, whose stack may have any name."""
    folder = tmp_path / "table"
    profile(space, [SHORT], folder, Vllm(engine_option=("enforce_eager=true",)))
    table = LatencyTable.load(folder)
    assert target_like(table, dtype="bfloat16").options["enforce_eager"] is True
    (stack,) = table.meta["stacks"].values()
    stack["engine_option"] = [option]
    with pytest.raises(TableError, match=f"may set gpu_mem.*; got '{option.split('=')[0]}'"):
        target_like(table, dtype="bfloat16")
