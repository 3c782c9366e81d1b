"""Muon with matrices of one shape computed together: the update of torch.optim.Muon, in a fraction of its calls.

A small network spends more on the calls of torch's loop over matrices than on the products in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MOST_ENTRIES = 1 << 22  # of the matrices that are taken at once: their copies stay small


class BatchedMuon(torch.optim.Muon):
    """torch.optim.Muon with Nesterov momentum and the rates of `match_rms_adamw`; state and options are the same."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient. There is no closure."""
        found = [(parameter, group) for group in self.param_groups for parameter in group["params"]
                 if parameter.grad is not None]
        for parameter, _ in found:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
        for together in _batches(found):
            self._update([parameter for parameter, _ in together], [group for _, group in together])

    def _update(self, parameters: list[Tensor], groups: list[dict[str, Any]]) -> None:
        """Matrices of one shape whose groups differ in rate and weight decay alone."""
        momentum, eps, count = groups[0]["momentum"], groups[0]["eps"], groups[0]["ns_steps"]
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, momenta, momentum)
        updates_NRC = orthogonalised(torch.stack(updates), groups[0]["ns_coefficients"], count, eps)
        size = max(parameters[0].shape)
        torch._foreach_mul_(parameters, [1 - group["lr"] * group["weight_decay"] for group in groups])
        rates = torch.tensor([-0.2 * size ** 0.5 * group["lr"] for group in groups], device=updates_NRC.device)
        torch._foreach_add_(parameters, list((updates_NRC * rates.view(-1, 1, 1)).unbind()))


def orthogonalised(matrices_NRC: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton-Schulz iterations towards the nearest (semi-)orthogonal matrices, in bfloat16."""
    linear, cubic, quintic = coefficients
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x_NRC = matrices_NRC.bfloat16()
    x_NRC = x_NRC.mT if tall else x_NRC
    x_NRC = x_NRC / torch.linalg.vector_norm(x_NRC, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram_NRR = torch.bmm(x_NRC, x_NRC.mT)
        factor_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=cubic, alpha=quintic)
        x_NRC = torch.baddbmm(x_NRC, factor_NRR, x_NRC, beta=linear)
    return x_NRC.mT if tall else x_NRC


def _batches(found: list[tuple[Tensor, dict[str, Any]]]) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
    """Parameters of one shape, device and dtype, and of one momentum and number of iterations, in parts of MOST_ENTRIES
    entries."""
    alike: dict[Any, list[tuple[Tensor, dict[str, Any]]]] = {}
    for parameter, group in found:
        key = (parameter.shape, parameter.device, parameter.dtype, group["momentum"], group["ns_steps"], group["eps"],
               group["ns_coefficients"])
        alike.setdefault(key, []).append((parameter, group))
    for members in alike.values():
        count = max(1, MOST_ENTRIES // members[0][0].numel())
        for first in range(0, len(members), count):
            yield members[first:first + count]
