"""`m`, and of `m2` the smallest time step, which no export has, against transformers with the same
weights; all else is held as whole networks: tests/exporting/test_families.py."""

import pytest
import torch
from layer_cases import assert_close, check_steps

from flashnas.architecture import parse_operators
from flashnas.operators.layer import build_layer

transformers = pytest.importorskip("transformers")


def layer_of(spec, hidden, theirs):
    """With the weights of a mixer of transformers."""
    layer = build_layer(spec, hidden)
    weights = {
        name.replace("conv1d", "conv").replace("dt_proj.bias", "dt_bias"): weight
        for name, weight in theirs.state_dict().items()
    }
    layer.load_state_dict({**weights, "conv.weight": weights["conv.weight"].squeeze(1)})
    return layer


@pytest.mark.parametrize(
    "written", ["m(state=6)", "m(expand=3,dt_rank=7,conv_size=3,bias=true,conv_bias=false)"]
)
@torch.no_grad()
def test_mamba_equals_transformers(written):
    from transformers.models.mamba.modeling_mamba import MambaMixer

    spec = parse_operators(written)[0].resolved(24)
    config = transformers.MambaConfig(
        hidden_size=24,
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
    for name, parameter in theirs.named_parameters():
        if parameter.ndim == 1 or name == "A_log":
            parameter += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, 70, 24)
    cache = transformers.DynamicCache(config=config)
    for t in range(70):
        theirs(x[:, t : t + 1], cache=cache)
    state = check_steps(layer_of(spec, 24, theirs), x, theirs(x))
    their_state = cache.get_recurrent_state(0, state_idx=0)
    assert_close(state.matrix_BHKV.squeeze(1).mT, their_state, 2e-5, "state")
    assert_close(
        state.conv_BTC.mT, cache.get_conv_state(0, state_idx=0)[..., 1:], 2e-5, "convolution state"
    )


@torch.no_grad()
@pytest.mark.parametrize("smallest", [0.5, 0.0])
def test_mamba2_equals_transformers(smallest):
    """`time_step_limit` clamps; `time_step_min` is of the initialisation alone."""
    from transformers.models.nemotron_h import modeling_nemotron_h as modeling

    config = transformers.NemotronHConfig(
        hidden_size=64,
        mamba_num_heads=6,
        mamba_head_dim=20,
        ssm_state_size=24,
        n_groups=2,
        conv_kernel=4,
        layer_norm_epsilon=1e-5,
        chunk_size=32,
        use_bias=True,
        time_step_min=0.7,
        time_step_limit=(smallest, float("inf")),
        layers_block_type=["linear_attention"],
    )
    torch.manual_seed(1)
    mixer = modeling.NemotronHMamba2Mixer(config, 0).eval()
    for parameter in mixer.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter) + (1 if parameter.ndim == 1 else 0))
    (spec,) = parse_operators(
        f"m2(heads=6,head_dim=20,state=24,groups=2,bias=true,dt_min={smallest})"
    )
    x = torch.randn(2, 70, 64)
    check_steps(layer_of(spec, 64, mixer), x, mixer(x))
