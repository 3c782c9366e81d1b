"""Keeps the experts of a network in use while it trains.

Experts chosen by a softmax: each layer adds balance_loss x E x sum over its E experts of f_e P_e to
the loss, f_e the share of the choices and P_e the mean probability (arXiv 2101.03961). f is of the
step before, so that micro-batches change rounding alone.

Experts chosen by sigmoids: after each step their bias moves by balance_rate, up where an expert got
fewer tokens than the mean, down where it got more (arXiv 2408.15664).
"""

import torch
from torch import Tensor

from flashnas.network.model import HybridLM
from flashnas.operators.mixture_of_experts.layer import MixtureOfExpertsLayer
from flashnas.training.recipe import Recipe


class ExpertBalance:
    """Of one training; of a network without experts it changes nothing. loads: of each layer the
    tokens of each expert in the last step, of their mean; [] before the first step."""

    def __init__(self, network: HybridLM, recipe: Recipe) -> None:
        self.recipe = recipe
        self.layers = [
            part for part in network.modules() if isinstance(part, MixtureOfExpertsLayer)
        ]
        self.loads: list[list[float]] = []

    def begin(self) -> None:
        """Before the passes of a step: forget those of an attempt that failed."""
        for layer in self.layers:
            layer.routed = []

    def loss(self, network: HybridLM, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The loss with the gradient of the term; its value stays that of the loss alone."""
        loss = network.loss(tokens_BT, targets_BT)
        for layer, load in zip(self.layers, self.loads, strict=False):
            if layer.router.bias is None:
                p_TE, _ = layer.routed[-1]
                # no product of matrices, which autocast would round
                balance = (p_TE.mean(0) * p_TE.new_tensor(load)).sum()
                term = self.recipe.balance_loss * balance
                loss = loss + (term - term.detach())
        return loss

    @torch.no_grad()
    def update(self) -> None:
        """After a step: count the tokens of each expert, and move the biases."""
        self.loads = []
        for layer in self.layers:
            chosen = torch.cat([chosen_TA for _, chosen_TA in vars(layer).pop("routed")])
            counts_E = torch.bincount(chosen.flatten(), minlength=layer.experts)
            load_E = counts_E.double()
            load_E /= load_E.mean()
            self.loads.append(load_E.tolist())
            if (bias_E := layer.router.bias) is not None:
                bias_E.add_((1 - load_E).sign().to(bias_E), alpha=self.recipe.balance_rate)
