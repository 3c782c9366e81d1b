"""`kda` beside fla's layer with the same weights; fla's kernels are replaced by its own plain
implementations."""

import pytest
import torch
import torch.nn.functional as F
from layer_cases import HIDDEN, SPECS, check_against_fla
from torch import nn

from flashnas.operators.parts import l2_norm

NAME = "kda(heads=3,head_dim=16,conv_size=2,gate_rank=5)"


def fla_layer(monkeypatch, layer):
    """fla's KimiDeltaAttention in plain torch, with our weights."""
    module = pytest.importorskip("fla.layers.kda")
    naive, gate = pytest.importorskip("fla.ops.kda.naive"), pytest.importorskip("fla.ops.kda.gate")

    def chunk(
        q,
        k,
        v,
        g,
        beta,
        A_log,
        dt_bias,
        **_,
    ):
        o, _ = naive.naive_recurrent_kda(
            l2_norm(q),
            l2_norm(k),
            v,
            gate.naive_kda_gate(g, A_log, dt_bias),
            beta.sigmoid(),
        )
        return o, None

    class Convolution(nn.Module):
        def __init__(self, hidden_size, kernel_size, **_):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(hidden_size, 1, kernel_size))

        def forward(self, x, **_):
            padded = F.pad(x.mT, (self.weight.shape[2] - 1, 0))
            return F.silu(F.conv1d(padded, self.weight, groups=len(self.weight))).mT, None

    class GatedNorm(nn.Module):
        def __init__(self, size, activation, eps):
            super().__init__()
            assert activation == "sigmoid"
            self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

        def forward(self, x, gate):
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps) * gate.sigmoid()

    for name, plain in (
        ("chunk_kda", chunk),
        ("ShortConvolution", Convolution),
        ("FusedRMSNormGated", GatedNorm),
    ):
        monkeypatch.setattr(module, name, plain)
    spec = SPECS[NAME]
    theirs = module.KimiDeltaAttention(
        hidden_size=HIDDEN, head_dim=spec.head_dim, num_heads=spec.heads, conv_size=spec.conv_size
    )
    for proj in (theirs.f_proj, theirs.g_proj):  # fla's rank is the head's size
        proj[0] = nn.Linear(HIDDEN, spec.gate_rank, bias=False)
        proj[1] = nn.Linear(spec.gate_rank, spec.inner(HIDDEN), bias=proj[1].bias is not None)
    inner = spec.inner(HIDDEN)
    q, k, v, beta = layer.in_proj.weight.split([inner, inner, inner, spec.heads])
    q_conv, k_conv, v_conv = layer.conv.weight.unsqueeze(1).chunk(3)
    decay, output = layer.gates_low.weight.chunk(2)
    theirs.load_state_dict(
        {
            "q_proj.weight": q,
            "k_proj.weight": k,
            "v_proj.weight": v,
            "b_proj.weight": beta,
            "q_conv1d.weight": q_conv,
            "k_conv1d.weight": k_conv,
            "v_conv1d.weight": v_conv,
            "f_proj.0.weight": decay,
            "f_proj.1.weight": layer.decay_gate.weight,
            "g_proj.0.weight": output,
            "g_proj.1.weight": layer.output_gate.weight,
            "g_proj.1.bias": layer.output_gate.bias,
            "A_log": layer.A_log,
            "dt_bias": layer.dt_bias,
            "o_norm.weight": layer.norm.weight,
            "o_proj.weight": layer.out_proj.weight,
        }
    )
    return theirs


@pytest.mark.slow
def test_the_layer_equals_flas(monkeypatch):
    check_against_fla(NAME, fla_layer, monkeypatch)
