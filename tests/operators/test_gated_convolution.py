"""`conv` computes what transformers computes."""

import pytest
import torch
from layer_cases import assert_close

from flashnas.operators.gated_convolution.layer import GatedConvolutionLayer
from flashnas.operators.gated_convolution.spec import GatedConvolution


def test_it_computes_what_lfm2_computes():
    modeling = pytest.importorskip("transformers.models.lfm2.modeling_lfm2")
    config = modeling.Lfm2Config(hidden_size=48, layer_types=["conv"], num_hidden_layers=1)
    torch.manual_seed(0)
    theirs = modeling.Lfm2ShortConv(config, 0).double()
    ours = GatedConvolutionLayer(GatedConvolution(), 48).double()
    ours.load_state_dict({name: tensor.squeeze(1) for name, tensor in theirs.state_dict().items()})
    x_BTD = torch.randn(2, 17, 48, dtype=torch.float64)
    with torch.no_grad():
        for form in (ours.reference, ours.forward):
            assert_close(form(x_BTD)[0], theirs(x_BTD), 1e-10, form.__name__)
