"""Cases and helpers shared by the tests of the operator layers. A new operator joins SPECS."""

import torch

from flashnas.architecture import parse_operators
from flashnas.operators import OPERATORS
from flashnas.testing import forms
from flashnas.testing.forms import HIDDEN, assert_close, make_inputs, weighted_sum
from flashnas.testing.operator_spec import state_tensors

__all__ = [
    "HIDDEN",
    "LAYERED",
    "SPECS",
    "assert_close",
    "make_inputs",
    "make_layer",
    "state_tensors",
    "weighted_sum",
]

torch.set_num_threads(1)

LAYERED = [kind for kind, spec in OPERATORS.items() if spec.layer]
SPECS = {
    str(spec): spec
    for spec in parse_operators(
        "a(head_dim=8) a(heads=4,kv_heads=2,head_dim=8,qk_norm=true,qkv_bias=true)"
        " swa(head_dim=8,window=5) swa(heads=4,kv_heads=4,head_dim=16,window=300)"
        " a(heads=4,kv_heads=2,head_dim=8,qk_norm=true,qkv_bias=true,out_bias=true,out_gate=true,rope_share=0.5)"
        " a(head_dim=8,rope_share=0)"
        " swa(head_dim=8,window=5,out_gate=true,rope_factor=8,rope_original=64)"
        " m m(expand=1,state=5,conv_size=3,dt_rank=3,bias=true,conv_bias=false)"
        " m2(head_dim=8,state=8) m2(head_dim=16,state=16,groups=2,conv_size=3)"
        " m2(head_dim=8,state=8,heads=6,groups=2,bias=true,conv_bias=false,dt_min=0.05)"
        " gla(head_dim=16) gla(head_dim=8,gate_rank=3)"
        " d(head_dim=8) d(head_dim=16,conv_size=2)"
        " gd(head_dim=8) gd(head_dim=16,k_heads=1,expand_v=2)"
        " r7(head_dim=8) r7(head_dim=16,decay_rank=3,rate_rank=5,gate_rank=40)"
        " kda(head_dim=8) kda(heads=3,head_dim=16,conv_size=2,gate_rank=5)"
        " conv conv(conv_size=5)"
        " moe moe(experts=5,active=3,intermediate=11,normalise=false)"
        " moe(experts=4,intermediate=9,shared=13)"
        " moe(experts=3,active=1,shared=8,shared_gate=true)"
        " moe(experts=4,intermediate=9,shared=13,relu2=true)"
        " moe(experts=5,active=3,intermediate=11,sigmoid=true,scale=2.5)"
        " moe(experts=3,active=1,intermediate=9,relu2=true,sigmoid=true,scale=0.5)"
        " f f(intermediate=50) f(bias=true) f(intermediate=50,bias=true,relu2=true)"
    )
}


def make_layer(name, dtype=torch.float64):
    """A layer of SPECS with weights that reach every branch."""
    return forms.make_layer(SPECS[name], HIDDEN, dtype)


@torch.no_grad()
def check_steps(layer, x_BTD, expected_BTD):
    """Both forms give these outputs; the state after the steps."""
    assert_close(layer(x_BTD)[0], expected_BTD, 2e-5, "forward")
    start = layer.init_state(len(x_BTD), x_BTD.dtype)
    y_BTD, state = forms.steps_of(layer, x_BTD, start)
    assert_close(y_BTD, expected_BTD, 2e-5, "steps")
    return state


def check_against_fla(name, fla_layer, monkeypatch):
    """Both forms equal fla's layer with the same weights."""
    layer, x = make_layer(name, torch.float32), make_inputs(65).float()
    expected = fla_layer(monkeypatch, layer)(x)[0]
    assert_close(layer.reference(x)[0], expected.double(), 1e-4, "reference")
    assert_close(layer(x)[0], expected, 1e-4, "forward")
