"""Layers that take the place of attention: they start from its weights, and each learns alone to
write what it writes.

Shapes: B sequences, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.conversion.choices import Choice
from flashnas.data.scored_text import NO_TABLE
from flashnas.network.model import Block, HybridLM
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention


def starting_network(
    teacher: HybridLM, choices: Sequence[Choice]
) -> tuple[HybridLM, LayerwiseLoss]:
    """A network of these replacements, one behind the other, and the loss by which they learn."""
    specs = tuple(choice.spec for choice in choices if choice.spec)
    hidden = teacher.architecture.hidden
    architecture = Architecture(hidden=hidden, operators=specs, vocab=NO_TABLE)
    network = HybridLM(architecture).to(teacher.embedding.weight.device)
    for choice, block, spec in zip(choices, network.blocks, specs, strict=True):
        from_attention(block, spec, teacher, choice.layer)
    return network, LayerwiseLoss(teacher, tuple(choice.layer for choice in choices))


@torch.no_grad()
def from_attention(block: Block, spec: OperatorSpec, teacher: HybridLM, layer: int) -> None:
    """Start a block of an operator from the weights of an attention layer of the teacher: its q, k,
    v and out, without biases; keys and values are repeated for the query heads that share them. The
    convolution passes the current token through; what attention lacks (gate, decay, strength) is
    drawn."""
    hidden = teacher.architecture.hidden
    own = teacher.blocks[layer]
    attention = teacher.architecture.operators[layer]
    assert isinstance(attention, Attention)
    block.norm.load_state_dict(own.norm.state_dict())
    rows = _rows_by_part(own, attention, hidden)
    for name, weight in _rows_by_part(block, spec, hidden).items():
        if name in rows:
            heads = rows[name].unflatten(0, (-1, attention.head_dim))
            weight.copy_(heads.repeat_interleave(len(weight) // len(rows[name]), 0).flatten(0, 1))
        else:
            weight.normal_(std=hidden**-0.5 * (1.0 if name == "z" else 0.2))
    block.mixer.get_parameter("conv.weight").zero_()[..., -1] = 1
    block.mixer.get_parameter("out_proj.weight").copy_(own.mixer.get_parameter("out_proj.weight"))


def _rows_by_part(block: Block, spec: OperatorSpec, hidden: int) -> dict[str, Any]:
    """Name of a part of the projection of its inputs -> the rows of that part."""
    tensor = spec.named_tensors(hidden)["in_proj.weight"]
    rows = block.mixer.get_parameter("in_proj.weight").split(tensor.rows())
    return dict(zip([name for name, _ in tensor.parts], rows, strict=True))


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
        learning = dict(zip(self.layers, network.blocks, strict=True))
        for n, layer in enumerate(self.teacher.blocks[: self.layers[-1] + 1]):
            with torch.no_grad():
                read_BTD = layer.norm(x_BTD)
                written_BTD = layer.mixer(read_BTD)[0].float()
            if n in learning:
                yield learning[n], read_BTD, written_BTD
            x_BTD = x_BTD + written_BTD
