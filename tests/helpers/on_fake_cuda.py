"""Run by test_fake_cuda with a CUDA device that computes nothing: prints each operator that trains,
reads a prompt in two parts, and steps there, with tensors on that device alone.

    LD_PRELOAD=fake_cuda.so python tests/helpers/on_fake_cuda.py float32 bfloat16
"""

import itertools
import sys

import torch
from layer_cases import LAYERED
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import bias

from flashnas.architecture import Architecture
from flashnas.network.cache import FixedStates
from flashnas.network.model import HybridLM
from flashnas.profiling.torch_calls import WIDE

BATCH, TOKENS, FIRST, ROOM = 2, 300, 30, 60
# its host has to know how many tokens each expert gets, and a tensor without memory has no values
WITHOUT = ("moe",)
SMALLER = {"swa": "swa(window=16)"}  # a window that these prompts fill


def prepare():
    """What a torch that is built for CPUs says otherwise."""
    torch.set_num_threads(1)
    torch._C._ensureCUDADeviceGuardSet()
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    lower_right = bias.causal_lower_right

    def causal_lower_right(*sizes):
        with unset_fake_temporarily():  # a tensor class of its own cannot be a fake tensor, too
            return lower_right(*sizes)

    bias.causal_lower_right = causal_lower_right


def check(operator, dtype):
    low = dtype == torch.bfloat16
    with torch.device("cuda"):
        notation = f"256(vocab=512,meta=3): {operator} f {operator} f"
        network = HybridLM(Architecture.parse(notation), "torch")
    tokens_BT = torch.zeros(BATCH, TOKENS, dtype=torch.long, device="cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=low):
        loss = network.loss(tokens_BT, tokens_BT)
    loss.backward()
    found = [loss, *(parameter.grad for parameter in network.parameters())]
    for name, parameter in network.eval().named_parameters():
        if name.rpartition(".")[2] not in WIDE:
            parameter.data = parameter.data.to(dtype)
    logits_BV, cache = network.prefill(tokens_BT[:, :FIRST])
    for tokens_B in tokens_BT[:, :3].T:
        logits_BV, cache = network.decode_step(tokens_B, cache)
    found.append(logits_BV)
    logits_BV, cache = network.prefill(tokens_BT[:, : FIRST - 1], cache)
    found.append(logits_BV)
    seen = network.architecture.meta_tokens + 2 * FIRST + 2
    states = FixedStates.of(cache.states, seen, seen + ROOM, BATCH, "cuda")
    found += [network.step_in_place(tokens_BT[:, 0], states) for _ in range(2)]
    assert {str(tensor.device) for tensor in found} == {"cuda:0"}
    assert {(tensor.shape, tensor.dtype) for tensor in found[-4:]} == {((BATCH, 512), dtype)}


if __name__ == "__main__":
    prepare()
    with FakeTensorMode():  # one for all, because masks are kept
        for dtype, kind in itertools.product(sys.argv[1:], LAYERED):
            if kind not in WITHOUT:
                check(SMALLER.get(kind, kind), getattr(torch, dtype))
                print(kind, dtype, flush=True)
