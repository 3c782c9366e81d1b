"""The scores of a search: one network is trained for each group of tasks, and a score is a mean of accuracies."""

from __future__ import annotations

from collections.abc import Sequence

from flashnas.architecture import Architecture
from flashnas.proxy.tasks import SCORES, groups_for, make_task
from flashnas.proxy.tasks.train import score_tasks
from flashnas.training.recipe import Recipe


def task_scores(architecture: Architecture, names: Sequence[str], recipe: Recipe, seed: int,
                deadline_s: float | None = None) -> dict[str, float]:
    """The scores of an architecture.

    Args:
        architecture: at full width.
        names: names in SCORES.
        recipe: its `task_training` holds what the tasks change.
        seed: of the weights and the sequences.
        deadline_s: limit of the training of each group in seconds; None for no limit.

    Returns:
        The scores, and the accuracy of each task that was trained for them, in 0..1; higher is better.

    Raises:
        CandidateError, ConfigError: as `score_tasks`.
    """
    accuracies: dict[str, float] = {}
    for group in groups_for(names):
        accuracies |= score_tasks(architecture, [make_task(name) for name in group], recipe, seed, deadline_s)
    means = {name: sum(accuracies[task] for task in SCORES[name]) / len(SCORES[name]) for name in names}
    return {**means, **accuracies}
