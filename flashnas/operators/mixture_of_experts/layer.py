"""Mixture of SwiGLU experts (`moe`), dropless, as transformers' Qwen3-MoE and Mixtral; arXiv 2101.03961,
2401.04088.

y = sum over the chosen experts e of p_e expert_e(x), p the softmax of the router's logits, in float32 at
least.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flashnas.operators.layer import Layer
from flashnas.operators.mixture_of_experts.on_device import Together, by_groups, by_token, groups_run
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.operators.parts.fused import swiglu
from flashnas.operators.parts.numerics import linear_reference, state_dtype
from flashnas.operators.roles import Role


class MixtureOfExpertsLayer(Layer):
    """in_proj[e] (gate, up) and out_proj[e] are expert e; a shared expert is the last of both. State: always
    None.

    Tokens are sorted by expert, so that each expert is one product; the same input gives the same output to
    the bit on every device. There is no loss that balances the experts. On CUDA, where no gradient is needed,
    nothing waits for the host (on_device.py): that of a step never does, that of a prompt on Hopper or later
    in bfloat16.
    """

    roles: ClassVar = {"router": Role.ROUTER, "in_proj": Role.READS, "out_proj": Role.WRITES,
                       "gate_proj": Role.GATE}
    weights_move = True  # as of `Aligned`

    def __init__(self, spec: MixtureOfExperts, hidden: int) -> None:
        super().__init__()
        spec = spec.resolved(hidden)
        inner = spec.intermediate
        self.experts, self.active, self.normalise = spec.experts, spec.active, spec.normalise
        sizes = [inner] * spec.experts + ([spec.shared] if spec.shared else [])
        self.router = nn.Linear(hidden, spec.experts, bias=False)
        self.in_proj = nn.ModuleList(nn.Linear(hidden, 2 * size, bias=False) for size in sizes)
        self.out_proj = nn.ModuleList(nn.Linear(size, hidden, bias=False) for size in sizes)
        self.gate_proj = nn.Linear(hidden, 1, bias=False) if spec.gated else None
        self._in, self._out = Together(), Together()

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        return None

    def reference(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = x_BTD.double()
        p, chosen = self._chosen(linear_reference(self.router, x))
        y = torch.zeros_like(x)
        for e, (into, out_of) in enumerate(zip(self.in_proj, self.out_proj, strict=True)):
            gate, up = linear_reference(into, x).chunk(2, -1)  # type: ignore[arg-type]
            out = linear_reference(out_of, gate * torch.sigmoid(gate) * up)  # type: ignore[arg-type]
            if e < self.experts:
                share = (p * (chosen == e)).sum(-1, keepdim=True)
            elif self.gate_proj is not None:
                share = torch.sigmoid(linear_reference(self.gate_proj, x))
            else:
                share = torch.ones_like(x[..., :1])
            y = y + share * out
        return y, None

    def forward(self, x_BTD: Tensor, state: None = None, *, few: bool = False) -> tuple[Tensor, None]:
        """few: the tokens of one step, on CUDA by shapes that do not depend on the choices."""
        x = x_BTD.flatten(0, -2)
        # near ties go the same way in training and decoding
        with torch.autocast(x.device.type, enabled=False):
            wide = state_dtype(x.dtype)
            p, chosen = self._chosen(x.to(wide) @ self.router.weight.to(wide).T)
        y = self._on_device(x, p, chosen, few) if not (x.is_cpu or torch.is_grad_enabled()) else None
        y = self._mixed(x, p, chosen) if y is None else y
        if len(self.in_proj) > self.experts:
            shared = self.out_proj[-1](swiglu(self.in_proj[-1](x)))
            y = y + (shared if self.gate_proj is None else torch.sigmoid(self.gate_proj(x)) * shared)
        return y.view(x_BTD.shape), None

    def step(self, x_BD: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.forward(x_BD, few=True)

    @torch.compiler.disable  # it looks where the weights lie
    def _on_device(self, x_TD: Tensor, p_TA: Tensor, chosen_TA: Tensor, few: bool) -> Tensor | None:
        """`_mixed` without a word to the host; None where only the host can tell the sizes."""
        grouped = groups_run(x_TD, self.out_proj[0].in_features)  # type: ignore[arg-type]
        if not (grouped or few) or not self.weights_move:
            return None
        weights_in = self._in.of(list(self.in_proj)[:self.experts])  # type: ignore[arg-type]
        weights_out = self._out.of(list(self.out_proj)[:self.experts])  # type: ignore[arg-type]
        mix = by_groups if grouped and not (few and chosen_TA.numel() == self.active) else by_token
        return mix(x_TD, p_TA, chosen_TA, weights_in, weights_out, swiglu)

    def _chosen(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and numbers of the chosen experts [.., active]."""
        p, chosen = logits.softmax(-1).topk(self.active, -1)
        return (p / p.sum(-1, keepdim=True) if self.normalise else p), chosen

    @torch.compiler.disable  # how many tokens each expert gets is another shape each time
    def _mixed(self, x_TD: Tensor, p_TA: Tensor, chosen_TA: Tensor) -> Tensor:
        """The chosen experts' outputs, weighted and summed; experts that nobody chose get gradients of zero.
        """
        order = chosen_TA.flatten().argsort(stable=True)  # (token, choice) pairs by expert
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        counts = torch.bincount(chosen_TA.flatten(), minlength=self.experts).tolist()
        pairs = x_TD.unsqueeze(1).expand(-1, self.active, -1).flatten(0, 1)
        by_expert = _Permuted.apply(pairs, order, place).split(counts)
        everyone = torch.is_grad_enabled()
        outputs = [self.out_proj[e](swiglu(self.in_proj[e](part)))
                   for e, part in enumerate(by_expert) if everyone or len(part)]
        y = _Permuted.apply(torch.cat(outputs), place, order).unflatten(0, p_TA.shape)
        return (p_TA.to(y.dtype).unsqueeze(-2) @ y).squeeze(-2)


class _Permuted(torch.autograd.Function):
    """x[order]; the gradient is a look-up too, by the inverse order, not a sum at addresses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None
