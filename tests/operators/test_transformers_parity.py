"""`a`, `m2` and `gd` against transformers' CPU implementations with the same weights."""

import importlib
import sys

import pytest
import torch
from layer_cases import assert_close

from flashnas.architecture import parse_operators
from flashnas.operators.layer import build_layer
from flashnas.operators.parts import Rotary
from flashnas.testing.forms import steps_of

transformers = pytest.importorskip("transformers")

HIDDEN, TOKENS = 64, 70


def layer_of(text):
    torch.manual_seed(0)
    return build_layer(parse_operators(text)[0], HIDDEN)


def randomised(module):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (1 if parameter.ndim == 1 else 0))
    return module.eval()


def compare(layer, expected, x):
    """Chunked form, and step after step, against the other implementation's outputs."""
    with torch.no_grad():
        assert_close(layer(x)[0], expected, 2e-5, "forward")
        steps, _ = steps_of(layer, x, layer.init_state(len(x), x.dtype))
    assert_close(steps, expected, 2e-5, "steps")


def inputs():
    torch.manual_seed(2)
    return torch.randn(2, TOKENS, HIDDEN)


@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_equals_transformers(family, window):
    sizes = {
        "hidden_size": HIDDEN,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "attn_implementation": "eager",
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    if family == "llama":
        from transformers.models.llama import modeling_llama as modeling

        config = transformers.LlamaConfig(**sizes)
        theirs, rotary = modeling.LlamaAttention(config, 0), modeling.LlamaRotaryEmbedding(config)
    else:
        from transformers.models.qwen3 import modeling_qwen3 as modeling

        config = transformers.Qwen3Config(**sizes)
        theirs, rotary = modeling.Qwen3Attention(config, 0), modeling.Qwen3RotaryEmbedding(config)
    randomised(theirs)
    kind, windowed = ("swa", f",window={window}") if window else ("a", "")
    norm = ",qk_norm=true" if family == "qwen3" else ""
    layer = layer_of(f"{kind}(heads=4,kv_heads=2,head_dim=24,rope_theta=5000.0{norm}{windowed})")
    weights = {
        "in_proj.weight": torch.cat(
            [theirs.q_proj.weight, theirs.k_proj.weight, theirs.v_proj.weight]
        ),
        "out_proj.weight": theirs.o_proj.weight,
    }
    if family == "qwen3":
        weights |= {"q_norm.weight": theirs.q_norm.weight, "k_norm.weight": theirs.k_norm.weight}
    layer.load_state_dict(weights)
    x, positions = inputs(), torch.arange(TOKENS).unsqueeze(0)
    distance = positions.T - positions
    hidden = (distance < 0) | ((distance >= window) if window else False)
    mask = torch.zeros(1, 1, TOKENS, TOKENS).masked_fill(hidden, -torch.inf)
    with torch.no_grad():
        expected = theirs(x, position_embeddings=rotary(x, positions), attention_mask=mask)[0]
    compare(layer, expected, x)


@pytest.fixture
def qwen3_next(monkeypatch):
    """The modeling file imported as on a machine without fla, whose kernels need a GPU."""
    name = "transformers.models.qwen3_next.modeling_qwen3_next"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for module in [
        module for module in sys.modules if module == "fla" or module.startswith("fla.")
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "fla", None)
    return importlib.import_module(name)  # the package may hold the one of another test


@pytest.mark.parametrize("expand", [1, 2])
def test_gated_delta_net_equals_transformers(qwen3_next, expand):
    k_heads, dim = 4, 16
    config = transformers.Qwen3NextConfig(
        hidden_size=HIDDEN,
        linear_num_key_heads=k_heads,
        linear_num_value_heads=expand * k_heads,
        linear_key_head_dim=dim,
        linear_value_head_dim=dim,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = randomised(qwen3_next.Qwen3NextGatedDeltaNet(config, 0))
    # their projections are grouped by key head: q, k, v.., z.. and beta.., a..
    q, k, v, z = (
        part.flatten(0, 1)
        for part in theirs.in_proj_qkvz.weight.unflatten(0, (k_heads, -1)).split(
            [dim, dim, expand * dim, expand * dim], 1
        )
    )
    beta, a = (
        part.flatten(0, 1)
        for part in theirs.in_proj_ba.weight.unflatten(0, (k_heads, -1)).split(expand, 1)
    )
    layer = layer_of(f"gd(k_heads={k_heads},head_dim={dim},expand_v={expand})")
    layer.load_state_dict(
        {
            "in_proj.weight": torch.cat([q, k, v, z, beta, a]),
            "conv.weight": theirs.conv1d.weight.squeeze(1),
            "A_log": theirs.A_log,
            "dt_bias": theirs.dt_bias,
            "norm.weight": theirs.norm.weight,
            "out_proj.weight": theirs.out_proj.weight,
        }
    )
    x = inputs()
    with torch.no_grad():
        expected = theirs(x)
    compare(layer, expected, x)


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_scaled_positions_equal_transformers(kind):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = {"rope_type": kind, "rope_theta": 5000.0, "factor": 8.0}
    if kind == "llama3":
        theirs |= {
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 200,
        }
    config = transformers.LlamaConfig(
        hidden_size=HIDDEN, num_attention_heads=1, rope_parameters=theirs
    )
    ours = Rotary(HIDDEN, 5000.0, 8.0, 200 if kind == "llama3" else 0).frequencies()
    assert_close(ours, LlamaRotaryEmbedding(config).inv_freq, 1e-6, "frequencies")


def test_gated_attention_equals_transformers(qwen3_next):
    config = transformers.Qwen3NextConfig(
        hidden_size=HIDDEN,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        rms_norm_eps=1e-6,
        attention_bias=True,
        num_hidden_layers=1,
        attn_implementation="eager",
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 5000.0,
            "partial_rotary_factor": 0.5,
        },
    )
    theirs = randomised(qwen3_next.Qwen3NextAttention(config, 0))
    layer = layer_of(
        "a(heads=4,kv_heads=2,head_dim=24,qk_norm=true,qkv_bias=true,out_bias=true,out_gate=true,"
        "rope_theta=5000,rope_share=0.5)"
    )
    weights = {}
    for part in ("weight", "bias"):  # their queries and gates alternate by head
        q, gate = (
            x.flatten(0, 1) for x in getattr(theirs.q_proj, part).unflatten(0, (4, 48)).split(24, 1)
        )
        weights[f"in_proj.{part}"] = torch.cat(
            [q, getattr(theirs.k_proj, part), getattr(theirs.v_proj, part), gate]
        )
        weights[f"out_proj.{part}"] = getattr(theirs.o_proj, part)
    layer.load_state_dict(
        {
            **weights,
            "q_norm.weight": 1 + theirs.q_norm.weight,
            "k_norm.weight": 1 + theirs.k_norm.weight,
        }
    )
    x, positions = inputs(), torch.arange(TOKENS).unsqueeze(0)
    mask = torch.full((1, 1, TOKENS, TOKENS), -torch.inf).triu(1)
    with torch.no_grad():
        rotary = qwen3_next.Qwen3NextRotaryEmbedding(config)
        expected = theirs(x, position_embeddings=rotary(x, positions), attention_mask=mask)[0]
    compare(layer, expected, x)


def test_mamba2_equals_transformers():
    """With the smallest time step, which no export has; without it: test_nemotron_h of export."""
    from transformers.models.nemotron_h import modeling_nemotron_h as modeling

    config = transformers.NemotronHConfig(
        hidden_size=HIDDEN,
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
    x, mixer = inputs(), randomised(modeling.NemotronHMamba2Mixer(config, 0))
    layer = layer_of("m2(heads=6,head_dim=20,state=24,groups=2,bias=true,dt_min=0.5)")
    named = {name.replace("conv1d", "conv"): weight for name, weight in mixer.state_dict().items()}
    layer.load_state_dict({**named, "conv.weight": named["conv.weight"].squeeze(1)})
    with torch.no_grad():
        compare(layer, mixer(x), x)
