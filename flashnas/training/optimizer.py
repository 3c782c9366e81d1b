"""Where parameters start and how fast each learns: one group each, by operator family and
optimizer.

`weight_norm` is that of Nemotron-Flash (arXiv 2511.18890): after each step a matrix W [C_out, C_in]
that reads the hidden state goes back to rows of norm 1, one that writes into it to columns of norm
1. The paper states the projection alone; the norm in front of a matrix learns what scale it needs.
Output projections that start at 0 (`Recipe.output_scale`) get norm 1 in the first step.
Further dimensions are stacks of matrices.
"""

from typing import Any

import torch
from torch import Tensor, nn

from flashnas.network.model import HybridLM
from flashnas.operators.spec import Role
from flashnas.training.recipe import Recipe

# Filters, decays, routers and low-rank gates are not maps between features: an orthogonal update
# would move them far too fast. Token tables are maps, but from single tokens.
MUON_ROLES = (Role.READS, Role.WRITES, Role.INNER)
DECAYING_ROLES = (*MUON_ROLES, Role.GATE, Role.GATE_READS, Role.ROUTER, Role.TOKENS)
_MIN_SIDE = 16


def taken_by_muon(role: Role, parameter: nn.Parameter, recipe: Recipe) -> bool:
    """True for dense projections inside an operator; all else, and very thin matrices, go to
    AdamW.
    """
    return recipe.optimizer == "muon" and role in MUON_ROLES and min(parameter.shape) >= _MIN_SIDE


@torch.no_grad()
def initialise(network: HybridLM, recipe: Recipe) -> None:
    """Move a freshly drawn network to the recipe's starting point.

    With few steps the start decides much: random updates of 24 operators bury an embedding of std
    0.02, most of all those of operators that normalise their output.
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
    """Muon and AdamW over one network, driven by one schedule; with `weight_norm`, matrices stay at
    unit norm."""

    def __init__(self, network: HybridLM, recipe: Recipe) -> None:
        self.recipe = recipe
        uses = network.parameter_uses()
        muon_lr = recipe.muon_lr * recipe.depth_multiplier(len(network.architecture.operators))
        groups: dict[tuple[bool, str, bool], dict[str, Any]] = {}
        # matrices that are kept at unit norm, and the dimension along which they are
        self.normalised: list[tuple[nn.Parameter, int]] = []
        for name, parameter in network.named_parameters():
            role, family = uses[name].role, uses[name].family
            muon, decays = taken_by_muon(role, parameter, recipe), role in DECAYING_ROLES
            peak_lr = (muon_lr if muon else recipe.adamw_lr) * recipe.multiplier(family)
            group = {
                "params": [],
                "lr": peak_lr,
                "peak_lr": peak_lr,
                "family": family,
                "weight_decay": recipe.weight_decay if decays else 0.0,
            }
            groups.setdefault((muon, family, decays), group)["params"].append(parameter)
            if recipe.weight_norm and role in NORM_DIMS:
                self.normalised.append((parameter, NORM_DIMS[role]))
        self._normalise()
        self.optimizers: list[torch.optim.Optimizer] = []
        if muon_groups := [group for (muon, *_), group in groups.items() if muon]:
            # match_rms_adamw: one rate moves the entries of matrices of all shapes equally
            self.optimizers.append(
                torch.optim.Muon(
                    muon_groups,
                    momentum=recipe.muon_momentum,
                    ns_steps=recipe.muon_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        self.optimizers.append(
            torch.optim.AdamW(
                [group for (muon, *_), group in groups.items() if not muon],
                fused=True,
                betas=(recipe.adamw_beta1, recipe.adamw_beta2),
            )
        )

    def step(self, step: int) -> None:
        """One update at the schedule's rate for this step (0, 1, ..), then forget the gradients."""
        factor = self.recipe.lr_factor(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._normalise()

    def _normalise(self) -> None:
        for parameter, dim in self.normalised:
            to_unit_norm(parameter, dim)


# -- weight normalization --------------------------------------------------------------------------

# The dimension along which a matrix [.., C_out, C_in] is kept at norm 1: rows of what reads the
# hidden state, columns of what writes into it. Filters, decays, low-rank gates and what maps an
# operator's own features have none: their size is part of what they compute. A row of a token table
# is the vector of one token, which the head reads and the table writes.
ROWS, COLUMNS = -1, -2
NORM_DIMS = {
    Role.READS: ROWS,
    Role.GATE_READS: ROWS,
    Role.ROUTER: ROWS,
    Role.TOKENS: ROWS,
    Role.WRITES: COLUMNS,
}


@torch.no_grad()
def to_unit_norm(matrix: Tensor, dim: int) -> None:
    """Divide a matrix by its norms along a dimension, in place; what is zero stays zero."""
    norm = torch.linalg.vector_norm(matrix, dim=dim, keepdim=True)
    matrix.div_(torch.where(norm > 0, norm, 1.0))
