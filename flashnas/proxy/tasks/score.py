"""The scores that a search asks for: each group of tasks is trained by one network, a score is a mean of accuracies."""

from __future__ import annotations

from collections.abc import Sequence

from flashnas.architecture import Architecture
from flashnas.proxy.tasks import SCORES, groups_for, make_task
from flashnas.proxy.tasks.train import score_tasks
from flashnas.training.recipe import Recipe


def task_scores(architecture: Architecture, names: Sequence[str], recipe: Recipe, seed: int,
                deadline_s: float | None = None) -> dict[str, float]:
    """The named scores of an architecture at full width, and the accuracies of all tasks that were trained for them.

    All in 0..1, higher is better. `deadline_s` and the errors as for `score_tasks`, once for each group.
    """
    accuracies: dict[str, float] = {}
    for group in groups_for(names):
        accuracies |= score_tasks(architecture, [make_task(name) for name in group], recipe, seed, deadline_s)
    means = {name: sum(accuracies[task] for task in SCORES[name]) / len(SCORES[name]) for name in names}
    return {**means, **accuracies}
