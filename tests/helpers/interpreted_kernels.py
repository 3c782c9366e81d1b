"""Run by test_backends with TRITON_INTERPRET=1: our adapters around fla's own kernels, on CPU tensors."""

from __future__ import annotations

import dataclasses
import sys

import torch
import torch.nn.functional as F
from triton.runtime.autotuner import Autotuner

from flashnas.architecture import parse_operators
from flashnas.operators.backends import fla
from flashnas.operators.backends.core import LIBRARIES, choose_backend
from flashnas.operators.backends.library import HALF
from flashnas.operators.layer import RecurrentState
from flashnas.operators.parts.fused import normalise
from flashnas.operators.parts.norms import l2_normalise
from flashnas.operators.recurrences.delta_rule import delta_rule_reference
from flashnas.operators.recurrences.dplr import dplr_reference
from flashnas.testing.operator import make_inputs, make_layer

TOKENS, BATCH, HEADS, KEY, VALUE = 3, 2, 2, 16, 12  # the interpreter takes its time over each program


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    Autotuner._bench = lambda *_, **__: [0.0, 0.0,
                                         0.0]  # type: ignore[method-assign]  # no device: the first will do
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(BATCH, TOKENS, HEADS, KEY), dim=-1) for _ in range(2))
    v, state = torch.randn(BATCH, TOKENS, HEADS, VALUE), torch.randn(BATCH, HEADS, KEY, VALUE)
    beta, g = torch.rand(BATCH, TOKENS, HEADS), -torch.rand(BATCH, TOKENS, HEADS)
    for kind, decay in (("delta_rule", None), ("gated_delta_rule", g)):
        step = LIBRARIES["fla"].kernels[kind](torch.float32).step
        leaves = [x.clone().requires_grad_(decay is None) for x in (q, k, v, beta, state)]
        exact = [x.detach().double().requires_grad_(decay is None) for x in leaves]
        expected_o, expected = delta_rule_reference(*exact[:4], None if decay is None else decay.double(),
                                                    exact[4])
        final, outputs = leaves[4], []
        for t in range(TOKENS):
            o, final = step(*(x[:, t] for x in leaves[:4]), None if decay is None else decay[:, t], final)
            outputs.append(o)
        o = torch.stack(outputs, 1)
        errors = [largest_difference(o, expected_o), largest_difference(final, expected)]
        if decay is None:  # the gated kernel has no backward pass
            weight, state_weight = torch.randn_like(expected_o), torch.randn_like(expected)
            got = torch.autograd.grad((o * weight).sum() + (final * state_weight).sum(), leaves)
            wanted = torch.autograd.grad((expected_o * weight).sum() + (expected * state_weight).sum(), exact)
            errors += [largest_difference(a, b) for a, b in zip(got, wanted, strict=True)]
        assert max(errors) < 1e-5, (kind, errors)
        print(kind)
    raw_steps()
    norms()
    rwkv7()


def raw_steps() -> None:
    """Norms, beta and decay inside the kernel; two value heads read one key head."""
    groups = HEADS // 2
    q, k = (torch.randn(BATCH, TOKENS, groups, KEY) for _ in range(2))
    v, state = torch.randn(BATCH, TOKENS, HEADS, VALUE), torch.randn(BATCH, HEADS, KEY, VALUE)
    beta, scale = torch.randn(BATCH, TOKENS, HEADS), KEY ** -0.5
    A_log = torch.rand(HEADS)
    shared_q, shared_k = (l2_normalise(x.double()).repeat_interleave(2, 2) for x in (q, k))
    for kind, channels in (("delta_rule", 0), ("gated_delta_rule", 1), ("kda", KEY)):
        a, dt_bias = torch.randn(BATCH, TOKENS, HEADS, channels), torch.randn(HEADS, channels)
        g = -A_log.double().exp().unsqueeze(-1) * F.softplus(a.double() + dt_bias.double())
        written, decays = torch.sigmoid(beta.double()), g if channels else torch.zeros(BATCH, TOKENS, HEADS,
                                                                                       1)
        expected_o, expected = dplr_reference(shared_q * scale, written.unsqueeze(-1) * shared_k, v.double(),
                                              -shared_k, None, decays.double().expand(-1, -1, -1, KEY),
                                              state.double())
        step = LIBRARIES["fla"].kernels[kind](torch.float32).raw_step
        assert step is not None
        inner = [] if not channels else [a.squeeze(-1) if channels == 1 else a]
        final, outputs = state, []
        with torch.no_grad():
            for t in range(TOKENS):
                weights = [A_log, dt_bias.flatten()] if inner else []
                o, final = step(*(x[:, t] for x in (q, k, v, beta, *inner)), *weights, scale, final)
                outputs.append(o)
        errors = [largest_difference(torch.stack(outputs, 1), expected_o),
                  largest_difference(final, expected)]
        assert max(errors) < 1e-5, (kind, errors)
        print(f"raw {kind}")


def norms() -> None:
    """The three kinds of norm, with gradients."""
    forward = LIBRARIES["fla"].kernels["norm"](torch.float32)[0]
    x, gate, weight = torch.randn(BATCH, 4, KEY), torch.randn(BATCH, 4, KEY), torch.rand(KEY) + 0.5
    cases = {"silu": (weight, False, False), "sigmoid": (weight, False, True),
             "silu first": (torch.rand(4, KEY) + 0.5, True, False)}
    for name, (w, first, sigmoid) in cases.items():
        leaves = [part.clone().requires_grad_() for part in (x, w, gate)]
        exact = [part.double().requires_grad_() for part in (x, w, gate)]
        y, wanted = (run(a, b, 1e-5, c, first, sigmoid) for run,
                     (a, b, c) in ((forward, leaves), (normalise, exact)))
        errors = [largest_difference(y, wanted)]
        if name != "silu first":  # its backward pass asks the device for its number of processors
            got = torch.autograd.grad(y.square().sum(), leaves)
            right = torch.autograd.grad(wanted.square().sum(), exact)
            errors += [largest_difference(a, b) for a, b in zip(got, right, strict=True)]
        assert max(errors) < 1e-5, (name, errors)
        print(f"norm {name}")


class Index(int):
    def to(self, _: object) -> Index:
        return self


def rwkv7() -> None:
    """The layer with all that fla has around its recurrence: parallel form with gradients, in chunks of 16
    and in those of bounded decays, and steps."""
    from fla.ops.generalized_delta_rule.dplr import chunk_A_bwd, chunk_A_fwd, chunk_h_bwd, chunk_h_fwd

    for module in (chunk_A_fwd, chunk_A_bwd):  # the interpreter knows tl.gather, and not fla's name for it
        module.IS_GATHER_SUPPORTED = False
    # an index of a loop is a tensor of Triton, which can be converted
    for module in (chunk_h_fwd, chunk_h_bwd):
        module.range = lambda *ends: map(Index, range(*ends))
    fla.LIBRARY = dataclasses.replace(fla.LIBRARY, devices=("cpu",))
    layer = make_layer(parse_operators("r7(head_dim=16)")[0], 32, torch.float32)
    choose_backend(layer, "fla")
    inputs = make_inputs(fla.BOUNDED_CHUNK + 6, 32)[:1].float()
    state = RecurrentState(*(torch.randn_like(part) for part in layer.init_state(1, torch.float32)))
    for name, half, tolerance, tokens in (("rwkv7", HALF, 1e-5, 2 * 16 + 6),
                                          ("rwkv7 bounded", (*HALF, torch.float32), 1e-2, fla.BOUNDED_CHUNK + 6)):
        fla.HALF = half  # within bounds fla inverts in float16
        choose_backend(layer, "fla")
        x = inputs[:, :tokens].clone().requires_grad_()
        leaves = [x, *layer.parameters()]
        weight, kept = torch.randn_like(x), x.detach().clone()
        found = []
        for form in (layer.forward, layer.reference):
            y, after = form(x, state)
            loss = (y * weight).sum() + after.matrix_BHKV.square().sum()
            found.append((y, after.matrix_BHKV, *torch.autograd.grad(loss, leaves)))
        errors = [largest_difference(a, b) for a, b in zip(*found, strict=True)]
        assert max(errors) < tolerance, (name, errors)
        assert torch.equal(x, kept)
        print(name)
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
