"""`m` against transformers' MambaMixer."""

import pytest
import torch
from layer_cases import assert_close, check_steps

from flashnas.architecture import parse_operators
from flashnas.operators.layer import build_layer

HIDDEN, TOKENS = 24, 70


@pytest.mark.parametrize(
    "written", ["m(state=6)", "m(expand=3,dt_rank=7,conv_size=3,bias=true,conv_bias=false)"]
)
def test_layer_equals_transformers(written):
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    spec = parse_operators(written)[0].resolved(HIDDEN)
    config = transformers.MambaConfig(
        hidden_size=HIDDEN,
        state_size=spec.state,
        expand=spec.expand,
        conv_kernel=spec.conv_size,
        use_bias=spec.bias,
        use_conv_bias=spec.conv_bias,
        time_step_rank=spec.dt_rank,
        num_hidden_layers=1,
        use_associative_scan=False,
    )
    torch.manual_seed(1)
    theirs = MambaMixer(config, 0).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1 or name == "A_log":
                parameter += 0.3 * torch.randn_like(parameter)
    layer = build_layer(spec, HIDDEN)
    weights = {
        name.replace("conv1d", "conv").replace("dt_proj.bias", "dt_bias"): weight
        for name, weight in theirs.state_dict().items()
    }
    layer.load_state_dict({**weights, "conv.weight": weights["conv.weight"].squeeze(1)})
    torch.manual_seed(2)
    x = torch.randn(2, TOKENS, HIDDEN)
    with torch.no_grad():
        expected = theirs(x)
        cache = transformers.DynamicCache(config=config)
        for t in range(TOKENS):
            theirs(x[:, t : t + 1], cache=cache)
    state = check_steps(layer, x, expected)
    their_state = cache.get_recurrent_state(0, state_idx=0)
    assert_close(state.matrix_BHKV.squeeze(1).mT, their_state, 2e-5, "state")
    assert_close(
        state.conv_BTC.mT, cache.get_conv_state(0, state_idx=0)[..., 1:], 2e-5, "convolution state"
    )
