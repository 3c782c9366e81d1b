"""The smallest time step of `m2`, which no export has, against transformers with the same weights; all
else is held as whole networks: tests/exporting/test_families.py."""

import pytest
import torch
from layer_cases import check_steps

from flashnas.architecture import parse_operators
from flashnas.operators.layer import build_layer

transformers = pytest.importorskip("transformers")


def test_mamba2_equals_transformers():
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
        time_step_min=0.5,
        layers_block_type=["linear_attention"],
    )
    torch.manual_seed(1)
    mixer = modeling.NemotronHMamba2Mixer(config, 0).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (1 if parameter.ndim == 1 else 0))
    (spec,) = parse_operators("m2(heads=6,head_dim=20,state=24,groups=2,bias=true,dt_min=0.5)")
    layer = build_layer(spec, 64)
    named = {name.replace("conv1d", "conv"): weight for name, weight in mixer.state_dict().items()}
    layer.load_state_dict({**named, "conv.weight": named["conv.weight"].squeeze(1)})
    x = torch.randn(2, 70, 64)
    with torch.no_grad():
        expected = mixer(x)
    check_steps(layer, x, expected)
