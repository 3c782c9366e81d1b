"""Run by test_interpreted_kernels with TRITON_INTERPRET=1: our layers and adapters around fla's own
kernels. On CPU tensors."""

import dataclasses
import sys

import torch
import torch.nn.functional as F
from triton.runtime.autotuner import Autotuner

from flashnas.architecture import parse_operators
from flashnas.operators.backends.core import LIBRARIES, choose_backend
from flashnas.operators.layer import RecurrentState
from flashnas.operators.recurrences.reference import token_by_token
from flashnas.testing.forms import make_inputs, make_layer, steps_of

STEPS = 3  # the interpreter takes its time over each program
CHUNKS = {"gd": 64 + 6, "r7": 2 * 16 + 6}  # tokens of whole chunks and a part of one


class Index(int):
    def to(self, _):
        return self


def prepare():
    """What the interpreter lacks: a clock for the autotuner, tl.gather by fla's name for it, and
    indices of loops that are tensors of Triton, which can be converted.
    """
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    Autotuner._bench = lambda *_, **__: [0.0] * 3  # type: ignore[method-assign]  # the first will do
    from fla.ops.common import chunk_delta_h
    from fla.ops.generalized_delta_rule import dplr

    for module in (dplr.chunk_A_fwd, dplr.chunk_A_bwd):
        module.IS_GATHER_SUPPORTED = False
    for module in (chunk_delta_h, dplr.chunk_h_fwd, dplr.chunk_h_bwd):
        module.range = lambda *ends: map(Index, range(*ends))
    torch.manual_seed(0)


def largest_difference(got, expected):
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def check(what, got, expected, tolerance):
    errors = [largest_difference(a, b) for a, b in zip(got, expected, strict=True)]
    assert max(errors) < tolerance, (what, errors)
    print(what)


def layer_by(library, text):
    """From a state: the parallel form with all gradients, where CHUNKS has the operator, and
    steps.
    """
    LIBRARIES[library] = dataclasses.replace(LIBRARIES[library], devices=("cpu",))
    kind = text.partition("(")[0]
    layer = make_layer(parse_operators(text)[0], 32, torch.float32)
    choose_backend(layer, library)
    x_BTD = make_inputs(CHUNKS.get(kind, STEPS), 32)[:1].float()
    state = RecurrentState(*(torch.randn_like(part) for part in layer.init_state(1, torch.float32)))
    if kind in CHUNKS:
        x, found = x_BTD.clone().requires_grad_(), []
        weight_BTD = torch.randn_like(x)
        for form in (layer.forward, layer.reference):
            y, after = form(x, state)
            loss = (y * weight_BTD).sum() + after.matrix_BHKV.square().sum()
            gradients = torch.autograd.grad(loss, [x, *layer.parameters()])
            found.append((y, after.matrix_BHKV, *gradients))
        check(kind, *found, 1e-4)
    expected_BTD, expected = layer.reference(x_BTD[:, :STEPS], state)
    with torch.no_grad():
        y_BTD, state = steps_of(layer, x_BTD[:, :STEPS], state)
    got, wanted = (y_BTD, state.matrix_BHKV), (expected_BTD, expected.matrix_BHKV)
    check(f"{kind} steps", got, wanted, 1e-5)


def delta_rule():
    """With all gradients. chunk_delta_rule refuses float32; float16 has 3 digits, and the
    interpreter gets tl.dot wrong in bfloat16.
    """
    shape = 1, 70, 2, 16
    q, k = (F.normalize(torch.randn(shape), dim=-1) for _ in range(2))
    parts = [q, k, torch.randn(shape), torch.rand(shape[:3])]
    parts = [part.half().float() for part in parts] + [torch.randn(1, 2, 16, 16)]
    weight = torch.randn(shape)

    def results(rule, dtype):
        leaves = [part.to(dtype).requires_grad_() for part in parts]
        o, final = rule(*leaves[:4], None, leaves[4])
        loss = (o * weight).sum() + final.square().sum()
        return [o, final, *torch.autograd.grad(loss, leaves)]

    forward = LIBRARIES["fla"].kernels["delta_rule"](torch.float16)[0]

    def reference(q, k, v, beta, g, state):
        writes = k * beta.unsqueeze(-1)
        return token_by_token(q, writes, v, g, state, -k, writes)

    check("d", results(forward, torch.float32), results(reference, torch.float64), 2e-2)


if __name__ == "__main__":
    prepare()
    delta_rule()
    for operator in ("d(head_dim=16)", "gd(head_dim=16)", "r7(head_dim=16)"):
        layer_by("fla", operator)
