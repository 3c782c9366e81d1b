"""Mixture of experts (`moe`), dropless, as transformers' Qwen3-MoE, Mixtral and LFM2-MoE; arXiv
2101.03961, 2401.04088.

y = scale x sum over the chosen experts e of p_e expert_e(x), p the softmax or the sigmoids of the
router's logits, in float32 at least.
"""

from typing import Any

import torch
from torch import Tensor, nn

from flashnas.base.errors import OperatorError
from flashnas.operators.feed_forward.layer import activated
from flashnas.operators.layer import Layer
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.operators.parts import linear_reference, state_dtype

TINY = 1e-20  # added to a sum of sigmoids, as in DeepSeek-V3; LFM2-MoE adds 1e-6


class MixtureOfExpertsLayer(Layer):
    """in_proj[e] (gate, up) and out_proj[e] are expert e; a shared expert is the last of both.
    State: always None.

    Tokens are sorted by expert, so that each expert is one product. How many tokens each expert
    gets is told to the host, so that no CUDA graph can hold this layer.

    routed: to which each pass appends the scores of all experts [tokens, E] and the numbers of the
    chosen ones [tokens, active]; None: nobody asks.
    """

    routed: Any = None

    def __init__(self, spec: MixtureOfExperts, hidden: int) -> None:
        super().__init__(spec, hidden)
        spec = spec.resolved(hidden)
        self.experts = spec.experts
        self.active = spec.active
        self.normalise, self.scale = spec.normalise, spec.scale
        self.relu2 = spec.relu2
        count = spec.experts + (spec.shared > 0)
        self.router = self.linear("router")
        self.in_proj = nn.ModuleList(self.linear(f"in_proj.{n}") for n in range(count))
        self.out_proj = nn.ModuleList(self.linear(f"out_proj.{n}") for n in range(count))
        self.gate_proj = self.linear("gate_proj") if spec.gated else None

    def reference(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = x_BTD.double()
        _, p, chosen = self._route(x @ self.router.weight.double().T)
        y = torch.zeros_like(x)
        for e, (into, out_of) in enumerate(zip(self.in_proj, self.out_proj, strict=True)):
            wide = linear_reference(into, x)  # type: ignore[arg-type]
            out = linear_reference(out_of, activated(wide, self.relu2))  # type: ignore[arg-type]
            if e < self.experts:
                share = (p * (chosen == e)).sum(-1, keepdim=True)
            elif self.gate_proj is not None:
                share = torch.sigmoid(linear_reference(self.gate_proj, x))
            else:
                share = torch.ones_like(x[..., :1])
            y = y + share * out
        return y, None

    def forward(self, x_BTD: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = x_BTD.flatten(0, -2)
        # near ties go the same way in training and decoding
        with torch.autocast(x.device.type, enabled=False):
            wide = state_dtype(x.dtype)
            scores, p, chosen = self._route(x.to(wide) @ self.router.weight.to(wide).T)
        if self.routed is not None:
            self.routed.append((scores, chosen))
        y = self._mixed(x, p, chosen)
        if len(self.in_proj) > self.experts:
            shared = self._expert(-1, x)
            y = y + (
                shared if self.gate_proj is None else torch.sigmoid(self.gate_proj(x)) * shared
            )
        return y.view(x_BTD.shape), None

    def _expert(self, e: int, x: Tensor) -> Tensor:
        return self.out_proj[e](activated(self.in_proj[e](x), self.relu2))

    def _route(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of all experts; weights and numbers of the chosen ones [.., active]."""
        if (bias := self.router.bias) is None:
            scores = ranked = logits.softmax(-1)
        else:
            scores = logits.sigmoid()
            ranked = scores + bias.to(scores.dtype)
        chosen = ranked.topk(self.active, -1).indices
        p = scores.gather(-1, chosen)
        if self.normalise:
            p = p / (p.sum(-1, keepdim=True) + TINY)
        return scores, self.scale * p, chosen

    def _mixed(self, x_TD: Tensor, p_TA: Tensor, chosen_TA: Tensor) -> Tensor:
        """The chosen experts' outputs, weighted and summed; experts that nobody chose get gradients
        of zero.
        """
        order = chosen_TA.flatten().argsort(stable=True)  # (token, choice) pairs by expert
        if x_TD.is_cuda and torch.cuda.is_current_stream_capturing():
            raise OperatorError(
                "operator moe: a CUDA graph cannot hold it, because the host has to know how many"
                " tokens each expert gets; take the mode eager"
            )
        counts = torch.bincount(chosen_TA.flatten(), minlength=self.experts).tolist()
        by_expert = x_TD[order // self.active].split(counts)
        everyone = torch.is_grad_enabled()
        outputs = torch.cat(
            [self._expert(e, part) for e, part in enumerate(by_expert) if everyone or len(part)]
        )
        y = outputs[order.argsort()].unflatten(0, p_TA.shape)
        return (p_TA.to(y.dtype).unsqueeze(-2) @ y).squeeze(-2)
