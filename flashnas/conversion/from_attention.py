"""Where layers that take the place of attention start: from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flashnas.architecture import Architecture
from flashnas.conversion.choices import Choice
from flashnas.data.scored_text import NO_TABLE
from flashnas.network.model import Block, HybridLM
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.training.layerwise import LayerwiseLoss


def starting_network(
    teacher: HybridLM, choices: Sequence[Choice]
) -> tuple[HybridLM, LayerwiseLoss]:
    """A network of these replacements, one behind the other, and the loss by which they learn."""
    specs = tuple(choice.spec for choice in choices if choice.spec)
    hidden = teacher.architecture.hidden
    architecture = Architecture(hidden=hidden, operators=specs, vocab=NO_TABLE)
    network = HybridLM(architecture).to(teacher.embedding.weight.device)
    for choice, block in zip(choices, network.blocks, strict=True):
        assert choice.spec is not None
        from_attention(block, choice.spec, teacher, choice.layer)
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
