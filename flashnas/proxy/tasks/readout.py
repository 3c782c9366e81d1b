"""Where the answers of a task are read from a network: at each position, or all at the last one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas.network.model import HybridLM
from flashnas.training.recipe import Recipe

_LR = 0.003              # of the decoder: it is the same small one for every candidate


class EachPosition(nn.Module):
    """Each answer is read from the output at its own position."""

    def __init__(self, network: HybridLM) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.network.loss(inputs_BT, targets_BT)

    def guess(self, inputs_BT: Tensor) -> Tensor:
        guess_BT: Tensor = self.network(inputs_BT).argmax(-1)
        return guess_BT

    def step(self, step: int) -> None:
        """Nothing to update: it has no parameters besides those of the network."""


class FromLast(nn.Module):
    """All answers are read from the output of the last position, as in MAD's autoencoder (arXiv 2403.17844):
    with the code of a position it goes through two linear layers, and the network's head reads out the token
    of that position."""

    codes_TD: Tensor

    def __init__(self, network: HybridLM, length: int, recipe: Recipe) -> None:
        super().__init__()
        hidden = network.architecture.hidden
        self.network, self.recipe = network, recipe
        self.decoder = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
        self.register_buffer("codes_TD", place_codes(length, hidden))
        self._optimizer = torch.optim.AdamW(self.decoder.parameters(), lr=_LR)

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(inputs_BT).float().flatten(0, 1), targets_BT.flatten())

    def guess(self, inputs_BT: Tensor) -> Tensor:
        return self._logits(inputs_BT).argmax(-1)

    def step(self, step: int) -> None:
        """Update the decoder at the schedule's rate for this step."""
        self._optimizer.param_groups[0]["lr"] = _LR * self.recipe.lr_factor(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _logits(self, inputs_BT: Tensor) -> Tensor:
        last_BD = self.network.hidden_states(inputs_BT)[:, -1]
        read_BTD = self.decoder(last_BD.unsqueeze(1) + self.codes_TD)
        return F.linear(read_BTD, self.network.head_weight)


def place_codes(length: int, hidden: int) -> Tensor:
    """Sines and cosines of the position at falling frequencies, [length, hidden]."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(0, hidden, 2) / hidden)
    angles = torch.arange(length).unsqueeze(1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :hidden]
