"""The step that `profile` captures as a CUDA graph, at a position on the device, equals that of
decoding."""

import fake_libraries
import pytest
import torch

from flashnas.architecture import Architecture
from flashnas.network.cache import mapped
from flashnas.network.model import HybridLM
from flashnas.operators.attention.cache import KeyValueCache, Position

ATTENTION = (
    "a(head_dim=16) swa(head_dim=16,window=5)"
    " a(head_dim=16,qk_norm=true,out_gate=true,rope_share=0.5)"
    " a(head_dim=16,rope_share=0) swa(head_dim=16,window=50)"
)
FLA = "d(head_dim=16) gd(head_dim=16) gla(head_dim=32) kda(head_dim=16) r7(head_dim=16)"
MAMBA = "m2(head_dim=16,state=16) m(state=8)"
# library -> stand-ins, operators, dtype, tolerance of logits as a share of their size
CASES = {
    "torch": ((), f"{ATTENTION} {FLA} {MAMBA} f", torch.float64, 1e-9),
    "flash-attn": (("flash_attn",), ATTENTION, torch.bfloat16, 0.02),
    "fla": (("fla",), FLA, torch.float32, 1e-4),
    "mamba-ssm": (("mamba_ssm", "selective_scan_cuda"), MAMBA, torch.float32, 1e-4),
}


def placed(cache, position, room):
    """The cache with key/value caches of that room at a position on the device."""

    def fixed(part):
        if isinstance(part, torch.Tensor):
            return part.clone()
        slots = min(room, part.window) if part.window else room
        keys, values = (
            torch.cat([kept, kept.new_zeros(2, kept.shape[1], slots, kept.shape[3])], 2)[
                :, :, :slots
            ]
            for kept in (x[:, :, : part.kept] for x in (part.keys_BGTK, part.values_BGTK))
        )
        return KeyValueCache(keys, values, part.seen, part.window, position=position)

    return tuple(mapped(state, fixed) for state in cache)


@pytest.mark.parametrize("case", CASES)
def test_one_step_serves_every_position(case, monkeypatch):
    """From two prompts, across the end of a window; logits as of single steps by the same
    kernels.
    """
    packages, operators, dtype, tolerance = CASES[case]
    if packages:
        fake_libraries.install(monkeypatch, *packages, devices=("cpu",))
    torch.manual_seed(0)
    model = HybridLM(Architecture.parse(f"64(vocab=300,meta=3): {operators}"), case)
    model = model.to(dtype).eval()
    tokens = torch.arange(2 * 20).view(2, 20) * 7 % 300
    for prompt in (1, 6):
        _, cache = model.prefill(tokens[:, :prompt])
        position = Position(prompt + 3, prompt + 12, 2, "cpu")
        fixed = placed(model.prefill(tokens[:, :prompt])[1], position, prompt + 12)
        for t in range(prompt, prompt + 9):
            expected, cache = model.decode_step(tokens[:, t], cache)
            found, fixed = model.decode_step(tokens[:, t], fixed)
            assert (found - expected).norm() < tolerance * expected.norm(), t
            position.seen_1 += 1
            position.seen_B += 1
