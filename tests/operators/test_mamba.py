"""The selective scan alone, and `m` against transformers' MambaMixer."""

from __future__ import annotations

import pytest
import torch
from layer_cases import assert_close
from torch import Tensor

from flashnas.architecture import parse_operators
from flashnas.operators.layer import build_layer
from flashnas.operators.recurrences import selective_scan
from flashnas.operators.recurrences.selective_scan import scan_reference
from flashnas.operators.recurrences.selective_scan import selective_scan as scan

HIDDEN, TOKENS, STATE = 24, 70, 5


def scan_case(tokens: int, strong: bool = False) -> list[Tensor]:
    """u, dt, A, B, C and an initial state; neighbours in time are nearly equal."""
    torch.manual_seed(tokens)
    batch, channels = 2, 12
    u, b, c = (torch.randn(batch, 1, size) + 0.05 * torch.randn(batch, tokens, size)
               for size in (channels, STATE, STATE))
    dt = torch.rand(batch, tokens, channels) * (40 if strong else 0.1)
    return [u, dt, -torch.rand(STATE, channels) - 0.1, b, c, torch.randn(batch, STATE, channels)]


def results(rule, arguments: list[Tensor]) -> list[Tensor]:
    """Output, final state and all gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in arguments]
    y, state = rule(*leaves)
    torch.manual_seed(1)
    total = ((y * torch.randn(y.shape, dtype=torch.float64)).sum()
             + (state * torch.randn(state.shape, dtype=torch.float64)).sum())
    return [y.detach(), state.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("strong", [False, True], ids=["weak", "strong"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 2000])
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 300])
def test_chunked_scan_equals_reference(tokens: int, chunk: int, strong: bool,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = scan_case(tokens, strong)
    monkeypatch.setattr(selective_scan, "CHUNK_ENTRIES", chunk * arguments[5].numel())
    expected = results(scan_reference, [tensor.double() for tensor in arguments])
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        got = results(scan, [tensor.to(dtype) for tensor in arguments])
        for n, (result, tensor) in enumerate(zip(got, expected, strict=True)):
            assert result.isfinite().all()
            assert_close(result, tensor, tolerance, f"{dtype} result {n}")


def test_the_scan_keeps_states_between_chunks_only() -> None:
    arguments = [tensor.requires_grad_() for tensor in scan_case(4096)]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        scan(*arguments)
    all_states = 4096 * arguments[5].numel()
    assert sum(tensor.numel() for tensor in kept) < all_states


@pytest.mark.parametrize("written",
                         ["m(state=6)", "m(expand=3,dt_rank=7,conv_size=3,bias=true,conv_bias=false)"])
def test_layer_equals_transformers(written: str) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer
    spec = parse_operators(written)[0].resolved(HIDDEN)
    config = transformers.MambaConfig(
        hidden_size=HIDDEN, state_size=spec.state, expand=spec.expand, conv_kernel=spec.conv_size,
        use_bias=spec.bias, use_conv_bias=spec.conv_bias, time_step_rank=spec.dt_rank, num_hidden_layers=1,
        use_associative_scan=False)
    torch.manual_seed(1)
    theirs = MambaMixer(config, 0).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1 or name == "A_log":
                parameter += 0.3 * torch.randn_like(parameter)
    layer = build_layer(spec, HIDDEN)
    weights = {name.replace("conv1d", "conv").replace("dt_proj.bias", "dt_bias"): weight
               for name, weight in theirs.state_dict().items()}
    layer.load_state_dict({**weights, "conv.weight": weights["conv.weight"].squeeze(1)})
    torch.manual_seed(2)
    x = torch.randn(2, TOKENS, HIDDEN)
    with torch.no_grad():
        expected = theirs(x)
        assert_close(layer(x)[0], expected, 2e-5, "forward")
        cache = transformers.DynamicCache(config=config)
        their_steps, steps = [theirs(x[:, :40], cache=cache)], [layer(x[:, :40])]
        state = steps[0][1]
        outputs = [steps[0][0]]
        for t in range(40, TOKENS):
            their_steps.append(theirs(x[:, t:t + 1], cache=cache))
            y, state = layer.step(x[:, t], state)
            outputs.append(y.unsqueeze(1))
    assert_close(torch.cat(their_steps, 1), expected, 2e-5, "their steps")
    assert_close(torch.cat(outputs, 1), expected, 2e-5, "steps")
    their_state = cache.get_recurrent_state(0, state_idx=0)
    assert_close(state.matrix_BHKV.squeeze(1).mT, their_state, 2e-5, "state")
    assert_close(state.conv_BTC.mT, cache.get_conv_state(0, state_idx=0)[..., 1:], 2e-5, "convolution state")
