"""`h`: its halves are those of `a`, `swa` and `m2`; its state holds both; its proxies fit."""

import pytest
import torch
from layer_cases import HIDDEN, assert_close, make_inputs
from torch import nn

from flashnas.base.errors import OperatorError
from flashnas.operators import OPERATORS
from flashnas.operators.layer import build_layer

H = OPERATORS["h"]
SMALL = {"head_dim": 8, "ssm_head_dim": 16, "state": 8, "groups": 2}


@pytest.mark.parametrize("window", [0, 5])
def test_the_output_is_the_mean_of_both_halves(window):
    spec = H(**SMALL, window=window, qk_norm=True)
    torch.manual_seed(0)
    layer = build_layer(spec, HIDDEN).double()
    nn.init.normal_(layer.norm.weight)
    nn.init.normal_(layer.ssm.norm.weight)
    attention, ssm = (
        build_layer(spec.attention(HIDDEN), HIDDEN),
        build_layer(spec.ssm(HIDDEN), HIDDEN),
    )
    for alone, half in ((attention, layer.attention), (ssm, layer.ssm)):
        alone.double().load_state_dict(
            {**half.state_dict(), "out_proj.weight": torch.eye(HIDDEN, dtype=torch.float64)}
        )
    x = make_inputs(40)
    with torch.no_grad():
        looked, summed = attention(x)[0], ssm(x)[0]
        normed = looked / (looked.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
        assert_close(layer(x)[0], (normed + summed) / 2 @ layer.out_proj.weight.T, 1e-10, "output")


def test_wrong_sizes_name_the_operator():
    for options, message in (
        ({"kv_heads": 5}, "operator 'h': kv_heads must divide heads 4; got 5"),
        ({"ssm_head_dim": 48}, "operator 'h': ssm_head_dim must divide heads x head_dim = 512"),
        ({"groups": 3}, "operator 'h': groups must divide the 8 heads of the Mamba2; got 3"),
    ):
        with pytest.raises(OperatorError, match=message):
            H(**options).resolved(512)
