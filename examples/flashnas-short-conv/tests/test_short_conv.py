"""The operator keeps the contract of flashnas and computes what transformers computes."""

import pytest
import torch
from flashnas_short_conv.layer import GatedShortConvolutionLayer
from flashnas_short_conv.spec import GatedShortConvolution

from flashnas.architecture import Architecture
from flashnas.base.errors import OperatorError
from flashnas.testing import check_operator


@pytest.mark.parametrize("operator", ["gsc", "gsc(conv_size=2)", "gsc(conv_size=5)"])
def test_contract(operator):
    check_operator(operator)


def test_a_convolution_needs_two_taps():
    with pytest.raises(OperatorError, match="operator 'gsc': conv_size must be at least 2; got 1"):
        Architecture.parse("64: gsc(conv_size=1)")


def test_it_computes_what_lfm2_computes():
    modeling = pytest.importorskip("transformers.models.lfm2.modeling_lfm2")
    config = modeling.Lfm2Config(
        hidden_size=48, conv_L_cache=3, conv_bias=False, layer_types=["conv"], num_hidden_layers=1
    )
    torch.manual_seed(0)
    theirs = modeling.Lfm2ShortConv(config, 0).double()
    ours = GatedShortConvolutionLayer(GatedShortConvolution(), 48).double()
    ours.load_state_dict(theirs.state_dict())
    x_BTD = torch.randn(2, 17, 48, dtype=torch.float64)
    with torch.no_grad():
        expected_BTD = theirs(x_BTD)
        for form in (ours.reference, ours.forward):
            torch.testing.assert_close(form(x_BTD)[0], expected_BTD, rtol=1e-10, atol=1e-10)


def test_parameters_of_a_model():
    assert (
        Architecture.parse("64: gsc").params - Architecture.parse("64: f").params
        == 64 * (4 * 64 + 3) - 3 * 64 * 192
    )
