"""Run by test_backends with TRITON_INTERPRET=1: our adapters around fla's own recurrent kernels, on CPU tensors."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

from flashnas.operators.backends.core import load
from flashnas.operators.recurrences.delta_rule import delta_rule_reference

TOKENS, BATCH, HEADS, KEY, VALUE = 3, 2, 2, 16, 12  # the interpreter takes its time over each program


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(BATCH, TOKENS, HEADS, KEY), dim=-1) for _ in range(2))
    v, state = torch.randn(BATCH, TOKENS, HEADS, VALUE), torch.randn(BATCH, HEADS, KEY, VALUE)
    beta, g = torch.rand(BATCH, TOKENS, HEADS), -torch.rand(BATCH, TOKENS, HEADS)
    for kind, decay in (("delta_rule", None), ("gated_delta_rule", g)):
        _, step = load("fla").kernels[kind](torch.float32)
        leaves = [x.clone().requires_grad_(decay is None) for x in (q, k, v, beta, state)]
        exact = [x.detach().double().requires_grad_(decay is None) for x in leaves]
        expected_o, expected = delta_rule_reference(*exact[:4], None if decay is None else decay.double(), exact[4])
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


if __name__ == "__main__":
    main()
