"""Run by test_compiled_for_gpus with TRITON_INTERPRET=1: the chunk kernels of fla's delta rules,
forward and backward, as our adapters call them, and mamba-ssm's state update, if its unpacked
sources are named. On CPU tensors."""

import contextlib
import dataclasses
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from compile_kernels import use_sources
from interpreted_kernels import Index, largest_difference
from triton.runtime.autotuner import Autotuner

from flashnas.architecture import parse_operators
from flashnas.operators.backends.core import LIBRARIES, choose_backend, cores_of
from flashnas.operators.recurrences.chunks import token_by_token
from flashnas.operators.recurrences.delta_rule import delta_rule_step
from flashnas.testing.operator import make_inputs, make_layer

TOKENS, BATCH, HEADS, KEY, VALUE = 70, 1, 2, 16, 16  # a chunk of 64 and a part of one


def delta_rules():
    """From a state, with the gradients of all inputs. chunk_delta_rule refuses float32; float16 has
    3 digits.
    """
    from fla.ops.common import chunk_delta_h

    chunk_delta_h.range = lambda *ends: map(
        Index, range(*ends)
    )  # an index of a loop is a tensor of Triton
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(BATCH, TOKENS, HEADS, KEY), dim=-1) for _ in range(2))
    v, state = torch.randn(BATCH, TOKENS, HEADS, VALUE), torch.randn(BATCH, HEADS, KEY, VALUE)
    beta, g = torch.rand(BATCH, TOKENS, HEADS), -torch.rand(BATCH, TOKENS, HEADS)
    for kind, decay, dtype, tolerance in (
        ("gated_delta_rule", g, torch.float32, 1e-4),
        ("delta_rule", None, torch.float16, 2e-2),
    ):
        forward = LIBRARIES["fla"].kernels[kind](dtype)[0]
        parts = [
            *(x.to(dtype).float() for x in (q, k, v, beta)),
            *([] if decay is None else [decay]),
            state,
        ]

        def results(rule, leaves):
            leaves = [leaf.clone().requires_grad_() for leaf in leaves]
            o, final = rule(*leaves[:4], leaves[4] if len(leaves) > 5 else None, leaves[-1])
            weight = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape)
            return [
                o,
                final,
                *torch.autograd.grad((o * weight).sum() + final.square().sum(), leaves),
            ]

        wanted = results(
            partial(token_by_token, delta_rule_step), [part.double() for part in parts]
        )
        errors = [
            largest_difference(a, b) for a, b in zip(results(forward, parts), wanted, strict=True)
        ]
        assert max(errors) < tolerance, (kind, errors)
        print(f"chunks of {kind}")


def state_update():
    """Steps of Mamba2 by mamba-ssm, as the layer decodes."""
    torch.cuda.device = lambda _: contextlib.nullcontext()  # type: ignore[assignment,misc]
    LIBRARIES["mamba-ssm"] = dataclasses.replace(LIBRARIES["mamba-ssm"], devices=("cpu",))
    layer = make_layer(parse_operators("m2(head_dim=16,state=16)")[0], 32, torch.float32)
    choose_backend(layer, "mamba-ssm")
    x_BTD = make_inputs(3, 32).float()
    assert next(cores_of(layer)).of(x_BTD).name.startswith("mamba-ssm")
    state = layer.init_state(len(x_BTD), torch.float32)
    with torch.no_grad():
        expected_BTD, expected = layer.reference(x_BTD, state)
        for t in range(x_BTD.shape[1]):
            y_BD, state = layer.step(x_BTD[:, t], state)
            assert largest_difference(y_BD, expected_BTD[:, t]) < 1e-5
    assert largest_difference(state.matrix_BHKV, expected.matrix_BHKV) < 1e-5
    print("state update")


if __name__ == "__main__":
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    Autotuner._bench = lambda *_, **__: [0.0] * 3  # type: ignore[method-assign]  # the first will do
    delta_rules()
    if len(sys.argv) > 1:
        use_sources(Path(sys.argv[1]))
        state_update()
