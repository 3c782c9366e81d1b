"""`conv`: what transformers computes, and the convolution without silu in each library."""

import fake_libraries
import pytest
import torch
from layer_cases import assert_close

from flashnas.operators.gated_convolution.layer import GatedConvolutionLayer
from flashnas.operators.gated_convolution.spec import GatedConvolution
from flashnas.operators.parts.convolution import short_convolution, short_convolution_step


def test_it_computes_what_lfm2_computes():
    modeling = pytest.importorskip("transformers.models.lfm2.modeling_lfm2")
    config = modeling.Lfm2Config(hidden_size=48, layer_types=["conv"], num_hidden_layers=1)
    torch.manual_seed(0)
    theirs = modeling.Lfm2ShortConv(config, 0).double()
    ours = GatedConvolutionLayer(GatedConvolution(), 48).double()
    ours.load_state_dict({name: tensor.squeeze(1) for name, tensor in theirs.state_dict().items()})
    x_BTD = torch.randn(2, 17, 48, dtype=torch.float64)
    with torch.no_grad():
        for form in (ours.reference, ours.forward):
            assert_close(form(x_BTD)[0], theirs(x_BTD), 1e-10, form.__name__)


def test_libraries_convolve_without_silu(monkeypatch):
    torch.manual_seed(0)
    x, state, weight = torch.randn(2, 9, 16), torch.randn(2, 2, 16), torch.randn(16, 3)
    leaves = [part.requires_grad_() for part in (x, state, weight)]
    fake_libraries.install(monkeypatch, "causal_conv1d", devices=("cpu",))
    from flashnas.operators.backends.core import LIBRARIES

    forward, step = LIBRARIES["causal-conv1d"].kernels["convolution"](torch.float32)
    results = []
    for rule in (forward, short_convolution):
        y, after = rule(x, state, weight, None, False)
        results.append([y, after, *torch.autograd.grad(y.square().sum(), leaves)])
    for n, (ours, expected) in enumerate(zip(*results, strict=True)):
        assert_close(ours, expected, 1e-5, f"result {n}")
    with torch.no_grad():
        for ours, expected in zip(step(x[:, 0], state.clone(), weight, None, False),
                                  short_convolution_step(x[:, 0], state, weight, None, False), strict=True):
            assert_close(ours, expected, 1e-5, "a step")
