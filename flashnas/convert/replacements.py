"""The choices of a conversion whose weights are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from flashnas.convert.blocks import BlockTraining, read_blocks
from flashnas.convert.choices import Choice
from flashnas.convert.found import TrainedReplacement
from flashnas.network.model import HybridLM

FOLDER = "replacements"
CHECKPOINT_EVERY_S = 300.0


def train_replacements(
    out: Path,
    teacher: HybridLM,
    choices: Sequence[Choice],
    text: Callable[[], tuple[np.ndarray, np.ndarray]],
    tokens: int,
    note: Callable[[str], None],
) -> list[TrainedReplacement]:
    """Train the choices whose weights are trained, those of one name together; what is finished in
    the folder is used.

    Args:
        out: folder of the conversion.
        text: a function that returns contexts [R, T] that are held out, and those of the training.
        tokens: of the training of each kind.
    """
    found = []
    for name in dict.fromkeys(choice.name for choice in choices if choice.trained):
        layers = {
            choice.layer: choice.spec for choice in choices if choice.name == name and choice.spec
        }
        training = BlockTraining(teacher, name, layers, text(), tokens, folder_of(out, name))
        found.append(training.train(note, CHECKPOINT_EVERY_S))
    return found


def read_replacements(out: Path, choices: Sequence[Choice]) -> dict[str, dict[str, Tensor]]:
    """Key of a choice -> its trained weights."""
    found = {}
    for name in dict.fromkeys(choice.name for choice in choices if choice.trained):
        for layer, state in read_blocks(folder_of(out, name)).items():
            found[f"{layer}:{name}"] = state
    return found


def folder_of(out: Path, name: str) -> Path:
    """Where the replacements of a name are, such as `gd 500000`."""
    return out / FOLDER / name.replace(" ", "-")
