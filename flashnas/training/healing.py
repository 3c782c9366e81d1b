"""Healing: a converted network learns from the model that it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashnas.base.errors import ConfigError
from flashnas.data.scored_text import held_out_draw
from flashnas.families.load_pretrained import load_pretrained
from flashnas.network.loss import linear_distillation
from flashnas.network.model import HybridLM
from flashnas.network.weights import ARCHITECTURE, TOKENIZER, load_model, read_architecture
from flashnas.training.teacher_text import TeacherText
from flashnas.training.trainer import Start, Trainer

MODELS = "models"  # folder of a conversion: weights of the layout of each budget
CONTEXT, DOCUMENTS, PROMPTS = 1024, 8, 6  # of the held-out text


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
    note: Callable[[str], None],
    device: str,
    teacher: str | None = None,
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
    pretrained = load_pretrained(teacher)
    model = pretrained.network
    vocab = model.architecture.vocab
    own = network.architecture.vocab
    if vocab != own:
        raise ConfigError(
            f"train.distill: {teacher} has a vocabulary of {vocab:,}, and {weights} one of {own:,}"
        )
    question["distill"] = {"teacher": Path(teacher).name, "sha256": pretrained.digest}
    model.to(device).requires_grad_(False)
    note("the loss of steps is that of the distillation; validation is the loss on the text")

    def loss(student: HybridLM, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """KL of the next-token distribution from the teacher's."""
        with torch.no_grad():
            teacher_x = model.hidden_states(tokens_BT).flatten(0, 1)
        x = student.hidden_states(tokens_BT).flatten(0, 1)
        return linear_distillation(x, student.head_weight, teacher_x, model.head_weight)

    def held_out(trainer: Trainer) -> dict[str, Any]:
        """`TextScore.figures` on validation text, and the number of probes that the teacher does."""
        dataset = trainer.dataset
        # shorter where little text is held out
        context = min(CONTEXT, len(dataset.validation) // (DOCUMENTS + PROMPTS))
        draw = held_out_draw(dataset, context=context, documents=DOCUMENTS, prompts=PROMPTS)
        text = TeacherText(model, draw, trainer.recipe.dtype)
        return {**text.score(trainer.network).figures(), "probes": len(text.probes)}

    return Start(network, loss, question=question, evaluate=held_out)
