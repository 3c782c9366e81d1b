"""The operators on a CUDA device against the float64 reference; needs a device."""

import pytest
import torch

from flashnas.operators import OPERATORS
from flashnas.operators.layers import build_layer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("tokens", [1, 65, 300])
@pytest.mark.parametrize("kind", OPERATORS)
def test_forward_and_step_agree_with_the_reference(kind, tokens):
    torch.manual_seed(0)
    layer = build_layer(OPERATORS[kind](), 256).cuda()
    x = torch.randn(2, tokens, 256, device="cuda") * 0.3 + torch.randn(2, 1, 256, device="cuda")
    with torch.no_grad():
        expected, _ = layer.reference(x)
        parallel, _ = layer(x)
        torch.testing.assert_close(parallel.double(), expected, rtol=1e-3, atol=1e-3)
        if not OPERATORS[kind].mixes_tokens:
            return
        _, state = layer(x[:, :-1]) if tokens > 1 else (None, layer.init_state(2, x.dtype, x.device))
        last, _ = layer.step(x[:, -1], state)
    torch.testing.assert_close(last.double(), expected[:, -1], rtol=1e-3, atol=1e-3)

