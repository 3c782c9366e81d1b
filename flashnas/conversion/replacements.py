"""Layers that are trained to take the place of attention: where they start, their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flashnas.base.text import duration
from flashnas.conversion.choices import Choice
from flashnas.conversion.found import TrainedReplacements
from flashnas.conversion.from_attention import starting_network
from flashnas.data.dataset import Dataset
from flashnas.network.model import Block, HybridLM
from flashnas.network.weights import load_model
from flashnas.training.distributed import Ranks
from flashnas.training.folder import FINAL
from flashnas.training.job import TrainJob, run_training
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Start, Step

STEP_TOKENS = 2048  # about as many in each step


def train_replacements(
    folder: Path,
    teacher: HybridLM,
    choices: Sequence[Choice],
    dataset: Dataset,
    recipe: Recipe,
    note: Callable[[str], None],
) -> TrainedReplacements:
    """Train the choices whose weights are trained side by side: a training as that of `flashnas
    train`, of a network that has these layers only. What its folder has is used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, loss = starting_network(teacher, trained(choices))
    tokens_BT = torch.from_numpy(dataset.validation[None, : recipe.sequence_tokens])
    loss.fit_scales(network, tokens_BT.to(teacher.embedding.weight.device))
    job = TrainJob(
        architecture=network.architecture,
        recipe=recipe,
        data=dataset.source,
        dataset=dataset,
        out=folder,
        resume=True,
        start=Start(network, loss, loss, {"layers": list(loss.layers)}),
        keep=1,
    )
    found = run_training(job, Ranks(), ReplacementProgress(note))
    curve = [(tokens, error) for tokens, error in found["curve"]]
    return TrainedReplacements(found["tokens"], found["tokens"] / found["tokens_per_s"], curve)


def read_replacements(folder: Path, choices: Sequence[Choice]) -> dict[str, Block]:
    """Key of a choice -> its trained layer."""
    if not trained(choices):
        return {}
    network = load_model(folder / FINAL).eval()
    return {
        choice.key: block for choice, block in zip(trained(choices), network.blocks, strict=True)
    }


def trained(choices: Sequence[Choice]) -> list[Choice]:
    return [choice for choice in choices if choice.trained]


def replacement_recipe(
    dataset: Dataset, context: int, tokens: int, dtype: str, device: str
) -> Recipe:
    """context: tokens of a sequence. tokens: to train on. dtype: of matrix products."""
    return Recipe(
        name="layers",
        width_factor=1,
        sequence_tokens=context,
        batch_sequences=max(1, min(STEP_TOKENS, len(dataset.train) - 1) // context),
        micro_batch_sequences=1,
        tokens=tokens,
        validation_tokens=len(dataset.validation),
        curve_tokens=len(dataset.validation),
        curve_points=10,
        optimizer="adamw",
        adamw_lr=1e-3,
        weight_decay=0.0,
        warmup_fraction=0.05,
        dtype=dtype,
        device=device,
        short_text=True,
    )


@dataclass
class ReplacementProgress:
    """Lines on a training of replacements. planned: whether one says how long it takes."""

    note: Callable[[str], None]
    planned: bool = False

    def update(self, step: Step, of_steps: int) -> None:
        if step.remaining_s is not None and not self.planned:
            self.planned = True
            self.note(f"replacements: about {duration(step.remaining_s)} to train")
        if step.validation is not None:
            self.note(f"{step.tokens:,} tokens, held-out error {step.validation:.3f}")
