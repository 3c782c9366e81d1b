"""The operator computes what transformers computes for LFM2."""

import pytest
import torch
from flashnas_short_conv.layer import GatedShortConvolutionLayer
from flashnas_short_conv.spec import GatedShortConvolution


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
