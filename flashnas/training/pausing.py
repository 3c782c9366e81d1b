"""A short training that pauses: it goes on from its checkpoint to the bit as if it had never paused."""

from __future__ import annotations

from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.errors import WeightsError
from flashnas.base.files import reason_of, system_error
from flashnas.data.dataset import Dataset
from flashnas.training.checkpoint import check_checkpoint, checkpoints, load_checkpoint, save_checkpoint
from flashnas.training.distributed import Ranks
from flashnas.training.recipe import Recipe
from flashnas.training.score import ProxyScore
from flashnas.training.trainer import Trainer, check_job, out_of_memory_is_a_reason


def train_to(tokens: int, architecture: Architecture, dataset: Dataset, recipe: Recipe, seed: int, *, folder: Path,
             deadline_s: float | None = None, ranks: Ranks | None = None) -> tuple[ProxyScore, int, str]:
    """Train as `flashnas.training.trainer.train`, by the schedule of the whole length, up to a point of the curve.

    The training goes on from a checkpoint in the folder. Where there is none, or a damaged one, it begins at the start,
    with the same result.

    Args:
        tokens: where to pause, a point of the recipe's curve; the end of the training, or more: it is finished.
        architecture, dataset, recipe, seed, deadline_s: as in `train`.
        folder: of the training's checkpoint. It is created, but its parent is not: on a machine that does not share the
            disk, no checkpoint is written.
        ranks: as in `train`; the first process writes the checkpoint.

    Returns:
        The score at the pause, whose loss is that of the curve's last point and whose seconds are those of the whole
        training so far; the tokens of the checkpoint from which it went on, 0 at the start; and why the checkpoint
        could not be written, in one line, or an empty text.

    Raises: as `train`.
    """
    check_job(architecture, dataset, recipe)
    with out_of_memory_is_a_reason():
        trainer = _continued(architecture, dataset, recipe, seed, folder, tokens, ranks)
        begun = _tokens(trainer)
        if begun < tokens:
            for step in trainer.steps(deadline_s):
                if step.tokens >= tokens:
                    break
        problem = ""
        if trainer.done < recipe.steps and trainer.ranks.first:
            try:
                folder.parent.stat()
                save_checkpoint(folder, trainer, dataset.tokenizer_json, keep=1)
            except Exception as error:  # what follows then trains from the start; nothing that was found is lost
                if (system := system_error(error)) is None:
                    raise
                problem = reason_of(system)
        return trainer.score(), begun, problem


def _continued(architecture: Architecture, dataset: Dataset, recipe: Recipe, seed: int, folder: Path, tokens: int,
               ranks: Ranks | None) -> Trainer:
    """A trainer at the newest checkpoint that is undamaged and not beyond `tokens`, else at the start."""
    for path in checkpoints(folder):
        trainer = Trainer(architecture, dataset, recipe, seed, ranks)
        try:
            check_checkpoint(path)
            load_checkpoint(path, trainer)
        except WeightsError:
            continue
        if _tokens(trainer) <= tokens:
            return trainer
    return Trainer(architecture, dataset, recipe, seed, ranks)


def _tokens(trainer: Trainer) -> int:
    return trainer.done * trainer.recipe.batch_tokens
