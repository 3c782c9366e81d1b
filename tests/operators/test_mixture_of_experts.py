"""`moe` against transformers' block; how tokens are routed."""

import pytest
import torch
from layer_cases import SPECS, assert_close, check_steps, make_inputs, make_layer

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import OperatorError
from flashnas.network.model import HybridLM
from flashnas.operators import OPERATORS
from flashnas.operators.layer import build_layer

HIDDEN, EXPERTS, ACTIVE, INNER, SHARED = 24, 6, 2, 20, 14


def test_a_gated_shared_expert_equals_transformers_in_outputs_and_gradients():
    """Other forms are held as whole networks: tests/exporting and tests/architecture."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    config = transformers.Qwen2MoeConfig(
        hidden_size=HIDDEN,
        num_experts_per_tok=ACTIVE,
        num_hidden_layers=1,
        num_experts=EXPERTS,
        moe_intermediate_size=INNER,
        shared_expert_intermediate_size=SHARED,
        norm_topk_prob=False,
    )
    theirs = Qwen2MoeSparseMoeBlock(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.copy_(0.3 * torch.randn_like(tensor))
    (spec,) = parse_operators(
        f"moe(experts={EXPERTS},active={ACTIVE},intermediate={INNER},shared={SHARED},"
        "shared_gate=true,normalise=false)"
    )
    layer, shared = build_layer(spec, HIDDEN), theirs.shared_expert
    into = [*theirs.experts.gate_up_proj]
    into.append(torch.cat([shared.gate_proj.weight, shared.up_proj.weight]))
    out = [*theirs.experts.down_proj, shared.down_proj.weight]
    weights = {f"in_proj.{e}.weight": tensor for e, tensor in enumerate(into)}
    weights |= {f"out_proj.{e}.weight": tensor for e, tensor in enumerate(out)}
    weights |= {"router.weight": theirs.gate.weight}
    weights |= {"gate_proj.weight": theirs.shared_expert_gate.weight}
    layer.load_state_dict(weights)
    x = torch.randn(2, 50, HIDDEN, requires_grad=True)
    expected, (got, _) = theirs(x), layer(x)
    weight = torch.randn_like(expected)
    (their_gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    assert_close(torch.autograd.grad((got * weight).sum(), x)[0], their_gradient, 1e-4, "gradient")
    check_steps(layer, x, expected)


def test_a_router_learns_with_one_active_expert_too_and_output_projections_start_small():
    layer = build_layer(OPERATORS["moe"](experts=3, active=1, intermediate=8), HIDDEN)
    layer(torch.randn(1, 30, HIDDEN))[0].sum().backward()
    assert layer.router.weight.grad.norm() > 1e-3
    one, other = (
        Architecture.parse(f"32: moe(active=1,normalise={text})").hash for text in ("true", "false")
    )
    assert one == other
    torch.manual_seed(0)
    model = HybridLM(Architecture.parse("32(vocab=8): a(head_dim=16) moe(experts=4,active=2)"))
    stds = {
        name: p.std().item()
        for name, p in model.named_parameters()
        if ".mixer." in name and p.ndim == 2
    }
    assert stds["layers.1.mixer.out_proj.3.weight"] == pytest.approx(48**-0.5 / 2, rel=0.2)
    assert stds["layers.1.mixer.in_proj.3.weight"] == pytest.approx(32**-0.5, rel=0.2)


def test_a_graph_that_is_captured_refuses_it_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    layer = build_layer(OPERATORS["moe"](experts=3, active=1, intermediate=8), HIDDEN)

    class OnCuda(torch.Tensor):
        is_cuda = True

    with pytest.raises(
        OperatorError, match=r"^operator moe: a CUDA graph cannot hold it, .*take the mode eager$"
    ):
        layer.step(torch.randn(2, HIDDEN).as_subclass(OnCuda), None)


def routes(layer, x):
    """The numbers of each token's experts, ascending."""
    scores = x.double() @ layer.router.weight.double().T
    if layer.router.bias is not None:
        scores = scores.sigmoid() + layer.router.bias.double()
    return scores.topk(layer.active, -1).indices.sort(-1).values


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.kind == "moe"])
def test_bfloat16_is_near_the_reference_where_a_token_keeps_its_experts(name, autocast):
    """Rounded weights send a token near a tie to others."""
    exact, x = make_layer(name), make_inputs(65)
    layer, low = make_layer(name, torch.float32), x.float()
    if not autocast:
        layer, low = layer.bfloat16(), low.bfloat16()
    same_BT = (routes(layer, low) == routes(exact, x)).all(-1)
    assert (~same_BT).sum() <= 1
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = layer(low)[0]
        y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert_close(y[same_BT], exact.reference(x)[0][same_BT], 0.03, name)
    for parameter in layer.parameters():
        if parameter is layer.router.bias:
            assert parameter.grad is None
        else:
            assert torch.isfinite(parameter.grad).all()
