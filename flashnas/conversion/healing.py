"""Healing: a converted network learns from the model that it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flashnas.base.errors import ConfigError
from flashnas.conversion.folder import MODELS
from flashnas.conversion.held_out import HeldOutScore
from flashnas.conversion.weights import load_pretrained
from flashnas.network.weights import ARCHITECTURE, TOKENIZER, load_model, read_architecture
from flashnas.training.distillation import Distillation
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Start


def weights_folder(source: str) -> Path | None:
    """The folder of weights that a source names: itself, or that of the only answer of a
    conversion; None where it is no such folder. ConfigError for a conversion with several."""
    path = Path(source)
    if (path / ARCHITECTURE).is_file():
        return path
    answers = sorted(folder.parent for folder in (path / MODELS).glob(f"*/{ARCHITECTURE}"))
    if len(answers) > 1:
        raise ConfigError(
            f"{source}: holds {len(answers)} converted networks; name one of them:"
            f" {', '.join(map(str, answers))}"
        )
    return answers[0] if answers else None


def tokenizer_of(weights: Path) -> str | None:
    """The path of the tokenizer in a folder of weights, if it has one."""
    path = weights / TOKENIZER
    return str(path) if path.is_file() else None


def start_of(
    weights: Path,
    recipe: Recipe,
    note: Callable[[str], None],
    device: torch.device,
    teacher: str | None = None,
    temperature: float = 1.0,
    loss_weight: float = 0.0,
) -> Start:
    """What a training of weights starts from.

    Args:
        weights: a folder of them.
        device: of the training.
        teacher: a folder of transformers or a GGUF file, from which they learn; None: they learn
            from the text alone.

    Raises:
        WeightsError, ArchitectureError: weights or teacher cannot be read.
        ConfigError: the teacher has another vocabulary.
    """
    network = load_model(weights).float()
    question: dict[str, Any] = {"start": read_architecture(weights)[1].get("sha256")}
    if teacher is None:
        return Start(network, question=question)
    model = load_pretrained(teacher).network
    vocab = model.architecture.vocab
    own = network.architecture.vocab
    if vocab != own:
        raise ConfigError(
            f"train.distill: {teacher} has a vocabulary of {vocab:,}, and {weights} one of {own:,}"
        )
    model.to(device).requires_grad_(False)
    question["distill"] = {
        "teacher": Path(teacher).name,
        "temperature": temperature,
        "loss_weight": loss_weight,
    }
    return Start(
        network,
        Distillation(model, temperature, loss_weight),
        question,
        HeldOutScore(model, recipe, note),
    )
