"""Run by test_backends with TRITON_INTERPRET=1: our adapters around fla's own kernels, on CPU
tensors.
"""

import dataclasses
import sys

import torch
import torch.nn.functional as F
from triton.runtime.autotuner import Autotuner

from flashnas.architecture import parse_operators
from flashnas.operators.backends.core import LIBRARIES, choose_backend
from flashnas.operators.layer import RecurrentState
from flashnas.operators.recurrences.chunks import token_by_token
from flashnas.operators.recurrences.delta_rule import delta_rule_step
from flashnas.testing.operator import make_inputs, make_layer

TOKENS, BATCH, HEADS, KEY, VALUE = (
    3,
    2,
    2,
    16,
    12,
)  # the interpreter takes its time over each program


def largest_difference(got, expected):
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def main():
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    Autotuner._bench = lambda *_, **__: [0.0, 0.0, 0.0]  # type: ignore[method-assign]  # no device: the first will do
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(BATCH, TOKENS, HEADS, KEY), dim=-1) for _ in range(2))
    v, state = torch.randn(BATCH, TOKENS, HEADS, VALUE), torch.randn(BATCH, HEADS, KEY, VALUE)
    beta, g = torch.rand(BATCH, TOKENS, HEADS), -torch.rand(BATCH, TOKENS, HEADS)
    for kind, decay in (("delta_rule", None), ("gated_delta_rule", g)):
        step = LIBRARIES["fla"].kernels[kind](torch.float32)[1]
        leaves = [x.clone().requires_grad_(decay is None) for x in (q, k, v, beta, state)]
        exact = [x.detach().double().requires_grad_(decay is None) for x in leaves]
        expected_o, expected = token_by_token(
            delta_rule_step, *exact[:4], None if decay is None else decay.double(), exact[4]
        )
        final, outputs = leaves[4], []
        for t in range(TOKENS):
            o, final = step(
                *(x[:, t] for x in leaves[:4]), None if decay is None else decay[:, t], final
            )
            outputs.append(o)
        o = torch.stack(outputs, 1)
        errors = [largest_difference(o, expected_o), largest_difference(final, expected)]
        if decay is None:  # the gated kernel has no backward pass
            weight, state_weight = torch.randn_like(expected_o), torch.randn_like(expected)
            got = torch.autograd.grad((o * weight).sum() + (final * state_weight).sum(), leaves)
            wanted = torch.autograd.grad(
                (expected_o * weight).sum() + (expected * state_weight).sum(), exact
            )
            errors += [largest_difference(a, b) for a, b in zip(got, wanted, strict=True)]
        assert max(errors) < 1e-5, (kind, errors)
        print(kind)
    rwkv7()


class Index(int):
    def to(self, _):
        return self


def rwkv7():
    """The layer by fla's recurrence: parallel form with gradients, and steps."""
    from fla.ops.generalized_delta_rule.dplr import (
        chunk_A_bwd,
        chunk_A_fwd,
        chunk_h_bwd,
        chunk_h_fwd,
    )

    for module in (
        chunk_A_fwd,
        chunk_A_bwd,
    ):  # the interpreter knows tl.gather, and not fla's name for it
        module.IS_GATHER_SUPPORTED = False
    # an index of a loop is a tensor of Triton, which can be converted
    for module in (chunk_h_fwd, chunk_h_bwd):
        module.range = lambda *ends: map(Index, range(*ends))
    LIBRARIES["fla"] = dataclasses.replace(LIBRARIES["fla"], devices=("cpu",))
    layer = make_layer(parse_operators("r7(head_dim=16)")[0], 32, torch.float32)
    choose_backend(layer, "fla")
    inputs = make_inputs(2 * 16 + 6, 32)[:1].float()
    state = RecurrentState(*(torch.randn_like(part) for part in layer.init_state(1, torch.float32)))
    x = inputs.clone().requires_grad_()
    leaves, weight, found = [x, *layer.parameters()], torch.randn_like(x), []
    for form in (layer.forward, layer.reference):
        y, after = form(x, state)
        loss = (y * weight).sum() + after.matrix_BHKV.square().sum()
        found.append((y, after.matrix_BHKV, *torch.autograd.grad(loss, leaves)))
    errors = [largest_difference(a, b) for a, b in zip(*found, strict=True)]
    assert max(errors) < 1e-5, ("rwkv7", errors)
    print("rwkv7")
    expected, _ = layer.reference(inputs[:, :TOKENS], state)
    outputs = []
    with torch.no_grad():
        for t in range(TOKENS):
            y, state = layer.step(inputs[:, t], state)
            outputs.append(y)
    error = largest_difference(torch.stack(outputs, 1), expected)
    assert error < 1e-5, ("rwkv7 steps", error)
    print("rwkv7 steps")


if __name__ == "__main__":
    main()
