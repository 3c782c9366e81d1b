"""Where parameters start and how fast each learns: one group each, by operator family and optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from flashnas.architecture import Architecture
from flashnas.training.recipe import Recipe
from flashnas.training.weight_norm import WeightNorm

_LAYER = re.compile(r"layers\.(\d+)\.(mixer|norm)\.(.+)")
# filters, decays, routers and low-rank gates are no maps between features: an orthogonal update would move them far too
# fast
_NOT_FOR_MUON = re.compile(r"conv|gate|router|A_log")
_LEAST_SIDE = 16


def family_of(name: str, architecture: Architecture) -> str:
    """The family in `Recipe.lr_multipliers` of a parameter: an operator's short name, that with `.conv` or `.router`
    for its short convolution or router, `embedding` or `norm`."""
    if match := _LAYER.fullmatch(name):
        kind, part = architecture.operators[int(match[1])].kind, re.search(r"\b(conv|router)\.", match[3])
        return f"{kind}.{part[1]}" if part else kind
    return "norm" if name.startswith("final_norm.") else "embedding"


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True for the matrices that Muon takes: dense projections inside an operator, not embeddings, gates or filters."""
    match = _LAYER.fullmatch(name)
    return (match is not None and match[2] == "mixer" and parameter.ndim == 2
            and min(parameter.shape) >= _LEAST_SIDE and not _NOT_FOR_MUON.search(match[3]))


@torch.no_grad()
def initialise(network: nn.Module, recipe: Recipe) -> None:
    """Move a freshly drawn network to the recipe's starting point.

    With few steps the start decides much: random updates of 24 operators bury an embedding of std 0.02, most of all
    those of operators that normalise their output (see experiments/pure_operators).
    """
    for name, parameter in network.named_parameters():
        match = _LAYER.fullmatch(name)
        if match is None:
            if not name.startswith("final_norm."):
                parameter.normal_(std=recipe.embedding_std)
        elif match[3].startswith("out_proj."):
            parameter.mul_(recipe.output_scale)
        elif match[3].endswith("conv.weight"):
            parameter.mul_(recipe.conv_noise)
            parameter[:, -1] += 1 - recipe.conv_noise  # the last tap is the current token


class Optimizers:
    """Muon and AdamW over one network, driven by one schedule; with `weight_norm`, matrices stay at unit norm."""

    def __init__(self, network: nn.Module, architecture: Architecture, recipe: Recipe) -> None:
        self.recipe = recipe
        groups: dict[tuple[str, str, bool], list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            muon = recipe.optimizer == "muon" and is_hidden_matrix(name, parameter)
            decays = parameter.ndim >= 2 and "conv" not in name and "A_log" not in name
            key = ("muon" if muon else "adamw", family_of(name, architecture), decays)
            groups.setdefault(key, []).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.weight_norm = WeightNorm(network) if recipe.weight_norm else None
        if self.weight_norm:
            self.weight_norm.project()
        if muon_groups := list(self._groups(groups, "muon", recipe.muon_lr)):
            # torch's own loop over matrices: 11-14 % of a step at width 128, so batching them would gain little
            # match_rms_adamw: the same rate moves every entry equally, whatever the matrix's shape
            self.optimizers.append(torch.optim.Muon(muon_groups, momentum=recipe.muon_momentum,
                                                    ns_steps=recipe.muon_steps, adjust_lr_fn="match_rms_adamw"))
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
