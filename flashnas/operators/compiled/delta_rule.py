"""The delta rules and RWKV7's recurrence, compiled; in the signatures of recurrences/delta_rule.py and
recurrences/dplr.py. delta_kernels.py has the formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flashnas.operators.compiled.delta_kernels import backward_kernel, forward_kernel
from flashnas.operators.compiled.jit import differentiable, filling, lanes_of, odd, over_batches, ready, view
from flashnas.operators.recurrences.delta_rule import delta_rule_reference
from flashnas.operators.recurrences.delta_rule import delta_rule_step as delta_rule_step_by_torch
from flashnas.operators.recurrences.dplr import dplr_chunked, dplr_reference
from flashnas.operators.recurrences.dplr import dplr_step as dplr_step_by_torch
from flashnas.operators.recurrences.dplr import kda_step as kda_step_by_torch

CHUNK = 16  # tokens, as in the kernels


class _DeltaRule(torch.autograd.Function):
    """a: None for a delta rule, whose rates [B, T, H] are b; g: [B, T, H], or by key channel [B, T, H, K].
    All float32, with neighbouring entries in the last dimension."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        q_BTHK, _, v_BTHV, *_ = inputs
        batch, tokens, heads, key_dim = q_BTHK.shape
        o_BTHV, seen_BTHV = torch.empty(2, *v_BTHV.shape).unbind()
        starts = torch.empty(batch, heads, -(-tokens // CHUNK), key_dim, v_BTHV.shape[-1])
        final_BHKV = _run(inputs, o_BTHV, seen_BTHV, starts)
        ctx.save_for_backward(*inputs, seen_BTHV, starts, final_BHKV)
        return o_BTHV, final_BHKV

    @staticmethod
    def backward(ctx: Any, grad_o_BTHV: Tensor, grad_final_BHKV: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, seen_BTHV, starts, final_BHKV = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *differentiable(_reference, inputs, (grad_o_BTHV, grad_final_BHKV)),
        q, k, v, a, b, g, _ = inputs
        (batch, *sizes), value_dim = q.shape, v.shape[-1]
        key_dim = sizes[-1]
        grads = [None if x is None else torch.empty(x.shape) for x in (q, k, v, a, b, g)]
        grad_state_BHKV = grad_final_BHKV.contiguous().clone()
        kernel = backward_kernel(lanes_of(value_dim), g.ndim == 4, a is not None)
        tensors = q, k, v, k if a is None else a, b, g, seen_BTHV, ready(grad_o_BTHV)
        written: list[Any] = [grads[1] if x is None else x for x in grads]

        def run(part: slice) -> None:
            room = torch.empty(key_dim * value_dim + 130 * value_dim + 209 * key_dim + 9 * 256 + 16)
            kernel(*(view(x[part]) for x in tensors), starts[part].data_ptr(), final_BHKV[part].data_ptr(),
                   grad_state_BHKV[part].data_ptr(), *(view(x[part]) for x in written), room.data_ptr(),
                   (part.stop - part.start, *sizes, value_dim))

        over_batches(batch, run)
        return *grads, grad_state_BHKV


def _run(inputs: Any, o_BTHV: Tensor, seen_BTHV: Tensor, starts: Tensor | None,
         inplace: bool = False) -> Tensor:
    """Fills o, seen and starts; returns the final state."""
    q, k, v, a, b, g, state_BHKV = inputs
    final_BHKV = state_BHKV.contiguous()
    if not inplace:
        final_BHKV = state_BHKV.clone(memory_format=torch.contiguous_format)
    (batch, *sizes), value_dim = q.shape, v.shape[-1]
    lanes, tensors = lanes_of(value_dim), (q, k, v, k if a is None else a, b, g, o_BTHV, seen_BTHV)
    kernel = forward_kernel(lanes, g.ndim == 4, a is not None)

    def run(part: slice) -> None:
        room = torch.empty(sizes[-1] * (lanes + 1))
        kernel(*(view(x[part]) for x in tensors), final_BHKV[part].data_ptr(),
               0 if starts is None else starts[part].data_ptr(), room.data_ptr(),
               (part.stop - part.start, *sizes, value_dim))

    over_batches(batch, run)
    return final_BHKV


def _reference(q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor, g: Tensor,
               state: Tensor) -> tuple[Tensor, Tensor]:
    if a is not None:
        return dplr_reference(q, k, v, a, b, g, state)
    if g.ndim == 3:
        return delta_rule_reference(q, k, v, b, g, state)
    return dplr_reference(q, k * b.unsqueeze(-1), v, -k, None, g, state)


@filling
def _whole(*inputs: Any) -> tuple[Tensor, Tensor]:
    """q, k, v, a, b, g, state in any float dtype, as `_DeltaRule` has them."""
    *parts, state_BHKV = inputs
    ready_inputs = (*_ready(parts), state_BHKV.float())
    if not parts[0].shape[1]:
        return ready_inputs[2], ready_inputs[-1]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in ready_inputs):
        o_BTHV, final_BHKV = _DeltaRule.apply(*ready_inputs)
        return o_BTHV, final_BHKV
    o_BTHV = torch.empty(ready_inputs[2].shape)
    return o_BTHV, _run(ready_inputs, o_BTHV, o_BTHV, None)  # what is seen is not needed


def _step(*inputs: Any) -> tuple[Tensor, Tensor]:
    """As `_whole`, for one token; sizes are multiples of 16, the state is written in place."""
    *parts, state_BHKV = inputs
    ready_parts: list[Any] = [None if x is None else x.unsqueeze(1) for x in _ready(parts)]
    o_BTHV = torch.empty(ready_parts[2].shape)
    final_BHKV = _run((*ready_parts, state_BHKV.float()), o_BTHV, o_BTHV, None, inplace=True)
    return o_BTHV.squeeze(1), final_BHKV


def _ready(parts: Sequence[Any]) -> list[Any]:
    """Numbers of heads may lie apart; those of a vector may not."""
    return [x if x is None else ready(x) if x.ndim == parts[2].ndim else x.float() for x in parts]


def delta_rule(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, beta_BTH: Tensor, g: Tensor | None,
               state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`delta_rule_chunked`, or with g [B, T, H, K] `kda_chunked`: (o_BTHV, final state)."""
    g = beta_BTH.new_zeros(()).expand(beta_BTH.shape) if g is None else g
    return _whole(q_BTHK, k_BTHK, v_BTHV, None, beta_BTH, g, state_BHKV)


def delta_rule_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, g: Tensor | None,
                    state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`delta_rule_step`, or with g [B, H, K] `kda_step`, without gradients; the state is written in place. By
    torch if sizes are odd."""
    if odd(state_BHKV):
        step: Any = kda_step_by_torch if g is not None and g.ndim == 3 else delta_rule_step_by_torch
        parts = (q_BHK, k_BHK, v_BHV, beta_BH, g, state_BHKV)
        return step(*(x if x is None else x.float() for x in parts))
    g = beta_BH.new_zeros(()).expand(beta_BH.shape) if g is None else g
    return _step(q_BHK, k_BHK, v_BHV, None, beta_BH, g, state_BHKV)


def dplr(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, a_BTHK: Tensor, b_BTHK: Tensor | None,
         g_BTHK: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_chunked`, by itself where there is no b: (o_BTHV, final state)."""
    rule = dplr_chunked if b_BTHK is None else _whole
    return rule(q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, g_BTHK, state_BHKV)


def dplr_step(q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, a_BHK: Tensor, b_BHK: Tensor, g_BHK: Tensor,
              state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """`dplr_step` with b and without gradients; the state is written in place. By torch if sizes are odd."""
    if odd(state_BHKV):
        parts = (q_BHK, k_BHK, v_BHV, a_BHK, b_BHK, g_BHK, state_BHKV)
        return dplr_step_by_torch(*(x.float() for x in parts))
    return _step(q_BHK, k_BHK, v_BHV, a_BHK, b_BHK, g_BHK, state_BHKV)
