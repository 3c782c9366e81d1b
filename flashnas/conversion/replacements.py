"""Layers that are trained to take the place of attention: where they start, their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flashnas.base.text import duration
from flashnas.conversion.choices import REPLACEMENTS, Choice
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.found import TrainedReplacements
from flashnas.conversion.from_attention import starting_network
from flashnas.data.scored_text import ContextReader
from flashnas.network.model import Block, HybridLM
from flashnas.network.weights import load_model
from flashnas.training.folder import FINAL
from flashnas.training.job import TrainJob, run_training
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Start, Step

FOLDER, TEXT = "replacements", "replacements_text"  # of a conversion
STEP_TOKENS = 2048  # about as many in each step


def train_replacements(
    config: ConvertConfig,
    teacher: HybridLM,
    choices: Sequence[Choice],
    text: ContextReader,
    dtype: str,
    note: Callable[[str], None],
) -> TrainedReplacements | None:
    """Train the choices whose weights are trained side by side: a training as that of `flashnas
    train`, of a network that has these layers only. What its folder has is used.

    text: on whose next tokens they are trained. dtype: of matrix products.
    """
    if not trained(choices):
        return None
    dataset = text.training_text(config.out / TEXT, config.replacement_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, loss = starting_network(teacher, trained(choices))
    tokens_BT = torch.from_numpy(dataset.validation[None, : text.context])
    loss.fit_scales(network, tokens_BT.to(teacher.embedding.weight.device))
    recipe = Recipe(
        name="layers",
        width_factor=1,
        sequence_tokens=text.context,
        batch_sequences=max(1, min(STEP_TOKENS, len(dataset.train) - 1) // text.context),
        micro_batch_sequences=1,
        tokens=config.replacement_tokens,
        validation_tokens=len(dataset.validation),
        curve_tokens=len(dataset.validation),
        curve_points=10,
        optimizer="adamw",
        adamw_lr=1e-3,
        weight_decay=0.0,
        warmup_fraction=0.05,
        dtype=dtype,
        device=config.device,
        short_text=True,
    )
    job = TrainJob(
        architecture=network.architecture,
        recipe=recipe,
        data=dataset.source,
        dataset=dataset,
        out=config.out / FOLDER,
        resume=True,
        start=Start(network, loss, loss, {"layers": list(loss.layers)}),
        keep=1,
    )
    found = run_training(job, ReplacementProgress(note))
    curve = list(map(tuple, found["curve"]))
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
    return [choice for choice in choices if choice.name in REPLACEMENTS]


@dataclass
class ReplacementProgress:
    """Lines on a training of replacements."""

    note: Callable[[str], None]

    def update(self, step: Step, of_steps: int) -> None:
        if step.validation is not None:
            left = "" if step.remaining_s is None else f"; about {duration(step.remaining_s)} left"
            self.note(f"{step.tokens:,} tokens, held-out error {step.validation:.3f}{left}")
