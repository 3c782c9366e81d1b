"""`r7` beside fla's layer with the same weights; fla's kernels are replaced by its own plain
implementations.
"""

import pytest
import torch
from layer_cases import HIDDEN, SPECS, assert_close, check_against_fla

from flashnas.architecture import Architecture
from flashnas.network.model import HybridLM
from flashnas.operators import OPERATORS
from flashnas.operators.layer import build_layer

NAME = "r7(head_dim=16,decay_rank=3,rate_rank=5,gate_rank=40)"
MIXES = ("x_r", "x_k", "x_v", "x_w", "x_a", "x_g")


def fla_layer(monkeypatch, layer):
    """fla's RWKV7Attention as first layer, in plain torch, with our weights."""
    module = pytest.importorskip("fla.layers.rwkv7")
    addcmul = pytest.importorskip("fla.ops.rwkv7.fused_addcmul")
    k_update = pytest.importorskip("fla.ops.rwkv7.fused_k_update")
    correction = pytest.importorskip("fla.ops.rwkv7.gate_output_correction")
    naive = pytest.importorskip("fla.ops.generalized_delta_rule.dplr.naive")

    def token_shift(x, *_, **__):
        return torch.nn.functional.pad(x, (0, 0, 1, -1)) - x, None

    def chunk(r, w, k, v, a, b, **_):
        # the plain form scales r
        first = [x.transpose(1, 2) for x in (r * r.shape[-1] ** 0.5, k, v, a, b, w)]
        o, state = naive.dplr_recurrence(*first)
        return o.transpose(1, 2), state

    monkeypatch.setattr(module, "token_shift", token_shift)
    monkeypatch.setattr(module, "fused_addcmul_rwkv7", addcmul.torch_addcmul_rwkv7)
    monkeypatch.setattr(module, "fused_k_rwkv7", k_update.k_update_ref)
    monkeypatch.setattr(module, "gate_output_correction", correction.gate_output_correction_ref)
    monkeypatch.setattr(module, "chunk_rwkv7", chunk)
    spec = SPECS[NAME]
    # says its author; the paper's formulas are ours
    with pytest.warns(UserWarning, match="potentially buggy"):
        theirs = module.RWKV7Attention(
            hidden_size=HIDDEN,
            head_dim=spec.head_dim,
            decay_low_rank_dim=spec.decay_rank,
            layer_idx=0,
            a_low_rank_dim=spec.rate_rank,
            gate_low_rank_dim=spec.gate_rank,
            num_hidden_layers=2,
        )
    weights = {
        "k_k": layer.k_k,
        "k_a": layer.k_a,
        "r_k": layer.r_k.view(-1, spec.head_dim),
        "g_norm.weight": layer.norm.weight,
        "g_norm.bias": layer.norm.bias,
        "o_proj.weight": layer.out_proj.weight,
    }
    weights |= zip(MIXES, layer.mix.view(6, 1, 1, -1), strict=True)
    projections = [f"{name}_proj.weight" for name in "rkv"]
    weights |= zip(projections, layer.in_proj.weight.chunk(3), strict=True)
    for name, gate in (
        ("w_lora", layer.decay_gate),
        ("a_lora", layer.rate_gate),
        ("g_lora", layer.output_gate),
    ):
        weights |= zip(
            (f"{name}.lora.0.weight", f"{name}.lora.2.weight"), gate.factors(), strict=True
        )
        if gate.bias is not None:
            weights[f"{name}.lora.2.bias"] = gate.bias
    theirs.load_state_dict(weights)
    return theirs


@pytest.mark.slow  # fla takes seconds to import
def test_the_layer_equals_flas(monkeypatch):
    check_against_fla(NAME, fla_layer, monkeypatch)


@pytest.mark.slow  # fla takes seconds to import
def test_initial_values_are_those_of_flas_first_layer(monkeypatch):
    module = pytest.importorskip("fla.layers.rwkv7")
    ours = build_layer(OPERATORS["r7"](head_dim=16), HIDDEN)
    with pytest.warns(UserWarning, match="potentially buggy"):
        theirs = module.RWKV7Attention(
            hidden_size=HIDDEN, head_dim=16, layer_idx=0, num_hidden_layers=1 + 1
        )
    expected = [getattr(theirs, name).flatten() for name in MIXES]
    assert_close(ours.mix, torch.cat(expected), 1e-6, "mix")
    for name in ("k_k", "k_a", "r_k"):
        assert_close(getattr(ours, name), getattr(theirs, name).flatten(), 1e-6, name)
    for gate, lora in ((ours.decay_gate, theirs.w_lora), (ours.rate_gate, theirs.a_lora)):
        assert_close(gate.bias, lora.lora[2].bias, 1e-6, "bias")
        assert gate.down.shape == lora.lora[0].weight.shape
        assert_close(gate.factors()[1].norm(), lora.lora[2].weight.norm(), 1e-5, "up")
    assert ours.output_gate.down.shape == theirs.g_lora.lora[0].weight.shape


def test_ranks_follow_flas_formula():
    assert ranks(OPERATORS["r7"](), 2048) == (128, 128, 224)
    assert ranks(OPERATORS["r7"](gate_rank=8).scaled(2048, 16), 128) == (8, 8, 8)


def ranks(spec, hidden):
    full = spec.resolved(hidden)
    return full.decay_rank, full.rate_rank, full.gate_rank


def test_a_model_keeps_the_decays_that_the_layer_starts_with():
    layer = HybridLM(Architecture.parse("64(vocab=300): r7(head_dim=16)")).layers[0].mixer
    decay = torch.exp(-torch.exp(torch.tensor(-0.5)) * torch.sigmoid(layer.decay_gate.bias))
    assert decay.min() < 0.6 < 0.99 < decay.max()  # from one token to hundreds
    assert not layer.decay_gate.down.any()
