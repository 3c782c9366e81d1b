"""The choices of a conversion whose weights are trained: where they start, and where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashnas.conversion.blocks import BlockTraining
from flashnas.conversion.choices import Choice
from flashnas.conversion.found import TrainedReplacement
from flashnas.network.model import Block, HybridLM
from flashnas.network.weights import MODEL, read_tensors
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention

FOLDER = "replacements"
CHECKPOINT_EVERY_S = 300.0


def train_replacements(
    out: Path,
    teacher: HybridLM,
    choices: Sequence[Choice],
    text: tuple[np.ndarray, np.ndarray],
    tokens: int,
    dtype: str,
    note: Callable[[str], None],
) -> list[TrainedReplacement]:
    """Train the choices whose weights are trained, those of one name together; what is finished in
    the folder is used.

    Args:
        out: folder of the conversion.
        text: contexts [R, T] that are held out, and those of the training.
        tokens: of the training of each kind.
        dtype: of matrix products.
    """
    trained = []
    for name in trained_names(choices):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            blocks = {
                choice.layer: from_attention(teacher, choice.layer, choice.spec)
                for choice in choices
                if choice.name == name and choice.spec
            }
        training = BlockTraining(teacher, name, blocks, text, tokens, dtype, folder_of(out, name))
        trained.append(training.train(note, CHECKPOINT_EVERY_S))
    return trained


def read_replacements(out: Path, choices: Sequence[Choice]) -> dict[str, dict[str, Tensor]]:
    """Key of a choice -> its trained weights."""
    weights: dict[str, dict[str, Tensor]] = {}
    for name in trained_names(choices):
        for key, tensor in read_tensors(folder_of(out, name) / MODEL).items():
            layer, _, parameter = key.partition(".")
            weights.setdefault(f"{layer}:{name}", {})[parameter] = tensor
    return weights


def trained_names(choices: Sequence[Choice]) -> list[str]:
    return list(dict.fromkeys(choice.name for choice in choices if choice.trained))


def folder_of(out: Path, name: str) -> Path:
    """Where the replacements of a name are, such as `gd 500000`."""
    return out / FOLDER / name.replace(" ", "-")


@torch.no_grad()
def from_attention(teacher: HybridLM, layer: int, spec: OperatorSpec) -> Block:
    """A layer that starts from the weights of attention: its q, k, v and out, without biases; keys
    and values are repeated for the query heads that share them. The convolution passes the current
    token through; what attention lacks (gate, decay, strength) is drawn."""
    hidden = teacher.architecture.hidden
    own = teacher.blocks[layer]
    attention = teacher.architecture.operators[layer]
    assert isinstance(attention, Attention)
    block = Block(spec, hidden)
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
    return block.to(teacher.embedding.weight.device)


def _rows_by_part(block: Block, spec: OperatorSpec, hidden: int) -> dict[str, Any]:
    """Name of a part of the projection of its inputs -> the rows of that part."""
    tensor = spec.named_tensors(hidden)["in_proj.weight"]
    rows = block.mixer.get_parameter("in_proj.weight").split(tensor.rows())
    return dict(zip([name for name, _ in tensor.parts], rows, strict=True))
