"""What torch times: prompts in pieces, steps at one context, states as a prompt leaves them, and
what does not fit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import cases
from fake_libraries import install
from offenders import every
from one_line import one_line
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import ConfigError, DeviceMemoryError
from flashnas.latency import schema
from flashnas.latency.validation import measure_in_rounds
from flashnas.latency.workload import Workload
from flashnas.network.model import HybridLM
from flashnas.profiling import platforms, table_target, torch_calls, torch_target
from flashnas.profiling.platforms import PLATFORMS, Cpu
from flashnas.profiling.target import Timings, decode_contexts
from flashnas.profiling.torch_calls import (
    deployed,
    filled_states,
    first_tokens,
    prompt,
    step,
)
from flashnas.profiling.torch_target import DTYPES, Torch

MODEL = Architecture.parse("32(vocab=64,meta=3): a(head_dim=8) m2(head_dim=8,state=8) f")
REQUEST = Workload(prompt_tokens=20, generated_tokens=9)
QUICK = Torch(seconds=1e-9)


def block_of(text, backend="torch", width=32):
    """A network of one operator."""
    return deployed(Architecture(hidden=width, vocab=64, operators=parse_operators(text)), backend)


@every(case=cases("profiling", "wrong_options_of_torch"))
def test_wrong_options_are_one_line(case):
    options, words = case
    assert words in one_line(ConfigError, Torch, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_line():
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        Torch(device="cuda")


def test_every_platform_of_a_table_can_be_timed():
    assert list(PLATFORMS) == list(schema.PLATFORMS)
    for name, platform in PLATFORMS.items():
        assert platform.name == name
        assert platform.dtype in DTYPES


# -- a request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "prompts", "contexts"),
    [
        (REQUEST, [23], [24 + 1, 24 + 4, 24 + 7]),
        (Workload(prompt_tokens=20), [23], []),
        (Workload(generated_tokens=9), [3], [4 + 1, 4 + 4, 4 + 7]),
    ],
)
def test_a_request_is_its_prompt_and_its_mean_step(workload, prompts, contexts, monkeypatch):
    def times(self, network, batch, read, steps):
        assert (network, batch, read, [each[-1] for each in steps]) == (MODEL, 2, prompts, contexts)
        return Timings([5.0] * len(read), [float(each[-1]) for each in steps])

    monkeypatch.setattr(Torch, "times", times)
    measured, mean_ms = Torch().time_request(MODEL, workload, 2), float(np.mean(contexts or [0]))
    assert (measured["ttft_ms"], measured["tpot_ms"]) == (5.0, pytest.approx(mean_ms))
    assert measured["latency_ms"] == pytest.approx(5.0 + workload.generated_tokens * mean_ms)


def test_few_contexts_stand_for_all_steps():
    workload = Workload(prompt_tokens=100, generated_tokens=1000)
    contexts = np.arange(4 + 100 + 1, 4 + 100 + 1000 + 1)
    for time in (lambda c: 5.0 + 0 * c, lambda c: 2 + 0.01 * c, lambda c: 1 + 1e-5 * c**2):
        mean = sum(
            share * time(np.float64(context)) for context, share in decode_contexts(workload, 4)
        )
        assert mean == pytest.approx(time(contexts).mean(), rel=3e-3)
    assert decode_contexts(Workload(prompt_tokens=7, generated_tokens=1), 0) == [
        (8, pytest.approx(1))
    ]


def test_torch_itself_is_timed_and_its_threads_are_set_back():
    before = torch.get_num_threads()
    assert Torch(seconds=1e-9, threads=before + 1).time_request(MODEL, REQUEST)["latency_ms"] > 0
    assert torch.get_num_threads() == before
    with Torch(threads=before + 1).running():
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()


def test_a_network_without_memory_is_not_built_or_is_told(monkeypatch):
    forgotten = []
    monkeypatch.setattr(torch_target, "free_memory", lambda: forgotten.append(1))

    def hungry(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(HybridLM, "prefill", hungry)
    with pytest.raises(DeviceMemoryError, match="the device ran out of memory"):
        QUICK.time_request(MODEL, REQUEST, 2)
    assert forgotten == [1]
    monkeypatch.setattr(Cpu, "free_bytes", lambda self: 10_000)
    monkeypatch.setattr(torch_target, "deployed", lambda *_: pytest.fail("it was built"))
    with pytest.raises(
        DeviceMemoryError, match=r"needs .* GB with batch 2 and \d+ tokens, and 0.0 GB are free"
    ):
        Torch().time_request(MODEL, REQUEST, 2)


@pytest.mark.parametrize(("integrated", "free"), [(0, 2000), (1, 8192 * 1024)])
def test_free_memory_that_cpu_and_gpu_share_includes_the_page_cache(
    integrated, free, tmp_path, monkeypatch
):
    """As on a GB10, of which CUDA counts what no file occupies; torch keeps 200 bytes."""
    (tmp_path / "meminfo").write_text("MemFree:  1 kB\nMemAvailable:   8192 kB\n")
    monkeypatch.setattr(platforms, "MEMORY", tmp_path / "meminfo")
    properties = SimpleNamespace(is_integrated=integrated)
    for name, answer in {
        "get_device_properties": properties,
        "mem_get_info": (2000, 10**6),
        "memory_reserved": 300,
        "memory_allocated": 100,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    assert PLATFORMS["cuda"].free_bytes() == free + 200


# -- prompts -------------------------------------------------------------------------------------------------


@every(most=[2**62, 7, 20, 45])
def test_prompts_in_pieces_give_the_same_next_tokens(most):
    torch.manual_seed(0)
    model, read = HybridLM(MODEL).eval(), []
    tokens = torch.randint(64, (5, 20))
    with torch.inference_mode():
        expected = model.prefill(tokens)[0].argmax(-1)
        whole = model.prefill
        model.prefill = lambda part, cache=None: (
            read.append(tuple(part.shape)) or whole(part, cache)
        )
        assert torch.equal(first_tokens(model, tokens, most), expected)
    assert (
        read
        == {
            2**62: [(5, 20)],
            7: [(1, 7), (1, 7), (1, 6)] * 5,
            20: [(1, 20)] * 5,
            45: [(2, 20), (2, 20), (1, 20)],
        }[most]
    )


def test_meta_tokens_are_read_without_states(monkeypatch):
    """A library that starts at zero only, as mamba-ssm's scan, then reads them at its full speed."""
    model = HybridLM(MODEL)
    seen, run = [], model.run_layers
    monkeypatch.setattr(
        model, "run_layers", lambda x, states: seen.extend(states) or run(x, states)
    )
    cache = prompt(model, 2, 3, 2**62)()
    assert seen == [None, None, None]
    assert cache[0].seen == 3


# -- steps and states ----------------------------------------------------------------------------------------


def test_a_step_can_be_repeated_at_one_context():
    model = deployed(MODEL)
    with torch.inference_mode():
        states = filled_states(model, 2, 50)
        keys, before = states[0].keys_BGTK, states[0].keys_BGTK.clone()
        for _ in range(3):
            _, after = model.decode_step(torch.zeros(2, dtype=torch.long), states)
            assert after[0].seen == 50
    assert after[0].keys_BGTK.data_ptr() == keys.data_ptr(), "no copy of the cache is timed"
    assert torch.equal(keys[:, :, :49], before[:, :, :49])


@pytest.mark.parametrize("mode", ["eager", "cuda_graph"])
def test_the_sequences_of_a_step_pass_as_many_experts_as_random_tokens_do(mode):
    """E (1 - (1 - A/E)^B) of 32 experts, of which each of 32 tokens passes 4; other ones in each
    step."""
    network = "64: m2(head_dim=32,state=16) moe(experts=32,active=4,intermediate=8)"
    torch.manual_seed(0)
    with torch.inference_mode():
        model = deployed(Architecture.parse(network))
        layer, call = model.blocks[1].mixer, step(model, 32, 9, mode)
        layer.routed = []
        assert not torch.equal(call(), call())
        for _ in range(6):
            call()
        passed = [len(chosen.unique()) for _, chosen in layer.routed]
        assert sum(passed) / 8 == pytest.approx(32 * (1 - (1 - 4 / 32) ** 32), rel=0.06)


def test_a_step_that_is_timed_in_a_graph_stays_at_its_position(monkeypatch):
    """The last slot of its cache is written again and again."""
    monkeypatch.setattr(torch_calls, "DRAWN_STEPS", 1)  # one token for all steps
    for text in (
        "a(head_dim=16)",
        "swa(head_dim=16,window=5)",
        "f",
    ):
        model, logits = block_of(text, width=64), []
        whole = model.decode_step

        def seen(*question, whole=whole, logits=logits):
            answer = whole(*question)
            logits.append(answer[0])
            return answer

        monkeypatch.setattr(model, "decode_step", seen)
        with torch.inference_mode():
            again = step(model, 2, 9, "cuda_graph")
            assert again().shape == again().shape == (2,)
        torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)


class Copies(TorchDispatchMode):
    """Counts the bytes that copies read of some tensors or write into them."""

    def __init__(self, tensors):
        super().__init__()
        self.bytes, self.places = 0, {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("copy_", "_foreach_copy_", "clone"):
            for tensor in pytree.tree_leaves(args):
                held = isinstance(tensor, torch.Tensor)
                if held and tensor.untyped_storage().data_ptr() in self.places:
                    self.bytes += tensor.nbytes
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["eager", "cuda_graph"])
@pytest.mark.parametrize(
    "text",
    [
        *(f"{name}(head_dim=16)" for name in ("d", "gd", "kda", "r7")),
        "gla(head_dim=32)",
        "m2(head_dim=16,state=16)",
        "m(state=8)",
        "conv",
    ],
)
def test_a_timed_step_copies_no_states_and_writes_over_the_matrices(mode, text, monkeypatch):
    model = block_of(text, width=64)
    states, whole = [], torch_calls.filled_states
    monkeypatch.setattr(
        torch_calls, "filled_states", lambda *given: states.append(whole(*given)) or states[0]
    )
    with torch.inference_mode():
        call = step(model, 2, 9, mode)
        tensors = pytree.tree_leaves(states)
        before = [tensor.clone() for tensor in tensors]
        with Copies(tensors) as copies:
            call()
    assert copies.bytes == 0
    if text != "conv":
        assert not torch.equal(tensors[-1], before[-1]), "the matrix state is that after the step"


def test_a_timed_state_lies_in_memory_as_a_prompt_leaves_it(monkeypatch):
    """mamba-ssm keeps [B, H, V, K]; its step reads K neighbours together only in that layout."""
    install(monkeypatch, devices=("cpu",))
    model = block_of("m2(head_dim=8,state=16)", "mamba-ssm")
    with torch.inference_mode():
        (state,) = filled_states(model, 2, 9)
        assert state.matrix_BHKV.shape[2:] == (16, 8)
        assert state.matrix_BHKV.mT.is_contiguous()
        assert model.blocks[0].mixer.init_state(2, torch.float32).matrix_BHKV.is_contiguous()


# -- weights -------------------------------------------------------------------------------------------------


def test_what_enters_decays_stays_wide_in_a_deployed_model():
    network = Architecture.parse("32(vocab=64): m2(head_dim=8,state=8) gd(head_dim=8) m(state=8) f")
    model = deployed(network, dtype=torch.bfloat16)
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


# -- rounds and finalists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("busy", "timed", "ms"), [(2, 5, 1.0), (9, 6, 1.9)])
def test_what_another_process_slows_down_is_timed_again(busy, timed, ms):
    """The first `busy` timings of one network take 1.3, 1.6, 1.9, .. ms in place of 1."""
    steady, slow, large = (Architecture.parse(f"32(vocab=64): {n}x(f)") for n in (1, 9, 99))
    seen = {steady: 0, slow: 0, large: 0}

    def measure(architecture):
        n = seen[architecture] = seen[architecture] + 1
        if architecture is large:
            raise DeviceMemoryError("it needs 9 GB")
        taken = 1 + 0.3 * n * (n <= busy and architecture is slow)
        return {"ttft_ms": taken, "tpot_ms": 0.0, "latency_ms": taken}

    found, left_out, disturbed = measure_in_rounds([*seen], measure, np.random.default_rng(0))
    assert seen == {steady: 3, slow: timed, large: 1}
    assert left_out == {large: "it needs 9 GB"}
    assert found.keys() == {steady, slow}
    assert found[slow]["latency_ms"] == pytest.approx({1.0: 1.0, 1.9: 1.6}[ms])
    assert disturbed == ({slow} if busy == 9 else set())


def test_finalists_that_do_not_fit_have_a_note(monkeypatch):
    class Model:
        workload = Workload(prompt_tokens=4, generated_tokens=2)

        def batch(self, architecture):
            return 1

    def request(self, architecture, workload, batch):
        if len(architecture.operators) > 3:
            raise DeviceMemoryError("it needs 9 GB")
        return {"ttft_ms": 1.0, "tpot_ms": 1.0, "latency_ms": 3.0}

    monkeypatch.setattr(Torch, "time_request", request)
    small, large, notes = MODEL, Architecture.parse("32(vocab=64): 9x(f)"), []
    found = table_target.measure_finalists([small, large], Model(), Torch(), notes.append)
    assert set(found) == {small.hash}
    assert notes == [f"finalist {large.notation}: not timed: it needs 9 GB"]
