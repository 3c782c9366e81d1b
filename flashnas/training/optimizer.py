"""Where parameters start and how fast each learns: one group each, by operator family and optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from flashnas.network.model import HybridLM
from flashnas.operators.roles import Role
from flashnas.training.muon import BatchedMuon
from flashnas.training.recipe import Recipe
from flashnas.training.weight_norm import WeightNorm

# Filters, decays, routers and low-rank gates are not maps between features: an orthogonal update would move them far
# too fast. Token tables are maps, but from single tokens.
MUON_ROLES = (Role.READS, Role.WRITES, Role.INNER)
DECAYING_ROLES = (*MUON_ROLES, Role.GATE, Role.GATE_READS, Role.ROUTER, Role.TOKENS)
_LEAST_SIDE = 16


def taken_by_muon(role: Role, parameter: nn.Parameter) -> bool:
    """True for dense projections inside an operator; embeddings, gates, filters and very thin matrices go to AdamW."""
    return role in MUON_ROLES and min(parameter.shape) >= _LEAST_SIDE


@torch.no_grad()
def initialise(network: HybridLM, recipe: Recipe) -> None:
    """Move a freshly drawn network to the recipe's starting point.

    With few steps the start decides much: random updates of 24 operators bury an embedding of std 0.02, most of all
    those of operators that normalise their output (see experiments/pure_operators).
    """
    uses = network.parameter_uses()
    for name, parameter in network.named_parameters():
        role = uses[name].role
        if role is Role.TOKENS:
            parameter.normal_(std=recipe.embedding_std)
        elif role is Role.WRITES:
            parameter.mul_(recipe.output_scale)
        elif role is Role.FILTER and parameter.ndim > 1:  # the taps, not the bias
            parameter.mul_(recipe.conv_noise)
            parameter[..., -1] += 1 - recipe.conv_noise  # the last tap is the current token


class Optimizers:
    """Muon and AdamW over one network, driven by one schedule; with `weight_norm`, matrices stay at unit norm."""

    def __init__(self, network: HybridLM, recipe: Recipe) -> None:
        self.recipe = recipe
        uses = network.parameter_uses()
        groups: dict[tuple[str, str, bool], list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            role, family = uses[name].role, uses[name].family
            muon = recipe.optimizer == "muon" and taken_by_muon(role, parameter)
            key = ("muon" if muon else "adamw", family, role in DECAYING_ROLES)
            groups.setdefault(key, []).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.weight_norm = WeightNorm(network) if recipe.weight_norm else None
        if self.weight_norm:
            self.weight_norm.project()
        muon_lr = recipe.muon_lr * recipe.depth_multiplier(len(network.architecture.operators))
        if muon_groups := list(self._groups(groups, "muon", muon_lr)):
            # match_rms_adamw: one rate moves the entries of matrices of all shapes equally
            self.optimizers.append(BatchedMuon(muon_groups, momentum=recipe.muon_momentum, ns_steps=recipe.muon_steps,
                                               adjust_lr_fn="match_rms_adamw"))
        self.optimizers.append(torch.optim.AdamW(self._groups(groups, "adamw", recipe.adamw_lr), fused=True,
                                                 betas=(recipe.adamw_beta1, recipe.adamw_beta2)))

    def _groups(self, groups: dict[tuple[str, str, bool], list[nn.Parameter]], wanted: str,
                lr: float) -> Iterator[dict[str, Any]]:
        for (optimizer, family, decays), parameters in groups.items():
            if optimizer == wanted:
                peak_lr = lr * self.recipe.multiplier(family)
                yield {"params": parameters, "lr": peak_lr, "peak_lr": peak_lr, "family": family,
                       "weight_decay": self.recipe.weight_decay if decays else 0.0}

    def step(self, step: int) -> None:
        """One update at the schedule's rate for this step (0, 1, ..), then forget the gradients."""
        factor = self.recipe.lr_factor(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.weight_norm:
            self.weight_norm.project()
