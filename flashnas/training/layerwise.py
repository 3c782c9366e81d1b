"""The loss of layers that learn, each alone, to write what layers of a teacher write.

Shapes: B sequences, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flashnas.network.model import Block, HybridLM


@dataclass(frozen=True, eq=False)
class LayerwiseLoss:
    """The squared difference from what layers of a teacher write into the stream, as a share of the
    square of that; the mean over the layers. It is the loss of a `Start` whose network holds the
    layers that learn: each reads the teacher's hidden states, and none reads another.

    teacher: on the device of the training. layers: their numbers in the teacher, in ascending
    order; the blocks of the network are in the same order.
    """

    teacher: HybridLM
    layers: tuple[int, ...]

    def __call__(self, network: HybridLM, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The mean over the layers; the targets do not count."""
        errors = [
            (block.mixer(read_BTD)[0].float() - written_BTD).square().sum()
            / written_BTD.square().sum()
            for block, read_BTD, written_BTD in self._pairs(network, tokens_BT)
        ]
        return torch.stack(errors).mean()

    @torch.no_grad()
    def fit_scales(self, network: HybridLM, tokens_BT: Tensor) -> None:
        """Scale what each layer writes by least squares, so that none starts worse than nothing."""
        for block, read_BTD, written_BTD in self._pairs(network, tokens_BT):
            own_BTD = block.mixer(read_BTD)[0]
            scale = (own_BTD * written_BTD).sum() / own_BTD.square().sum()
            block.mixer.get_parameter("out_proj.weight").mul_(scale)

    def _pairs(
        self, network: HybridLM, tokens_BT: Tensor
    ) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Each block, with what the teacher's layer reads, behind its norm, and writes."""
        with torch.no_grad():
            x_BTD = self.teacher.embed(tokens_BT).float()
        for n, layer in enumerate(self.teacher.blocks[: self.layers[-1] + 1]):
            with torch.no_grad():
                read_BTD = layer.norm(x_BTD)
                written_BTD = layer.mixer(read_BTD)[0].float()
            for at, block in zip(self.layers, network.blocks, strict=True):
                if at == n:
                    yield block, read_BTD, written_BTD
            x_BTD = x_BTD + written_BTD
