"""The synthetic tasks by name and the scores made of them. No torch, nothing heavy.

flashnas ships the tasks of MAD (arXiv 2403.17844); another package adds one by an entry point of the group
"flashnas.tasks". A task is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError, PluginError
from flashnas.base.registry import Registry

if TYPE_CHECKING:
    from flashnas.proxy.tasks.base import Task
    from flashnas.training.recipe import Recipe

__all__ = ["SCORES", "TASKS", "groups_for", "make_task", "task_tokens"]

TASKS: Registry[type[Task]] = Registry("task", "flashnas.tasks", {
    "in-context-recall": "flashnas.proxy.tasks.mad:InContextRecall",
    "fuzzy-recall": "flashnas.proxy.tasks.mad:FuzzyRecall",
    "noisy-recall": "flashnas.proxy.tasks.mad:NoisyRecall",
    "selective-copying": "flashnas.proxy.tasks.mad:SelectiveCopying",
    "compression": "flashnas.proxy.tasks.mad:Compression",
    "memorisation": "flashnas.proxy.tasks.mad:Memorisation",
}, ConfigError, "name", base="flashnas.proxy.tasks.base:Task", summaries={
    "in-context-recall": "Keys are tokens 0 .. k - 1, values the next k",
    "fuzzy-recall":
        "Keys are motifs of distinct tokens 0 .. k - 1, values of distinct tokens k .. vocab - 2; the last "
        "token pads on the left",
    "noisy-recall": "In-context recall in which each pair is noise with probability `noise`",
    "selective-copying":
        "`copied` tokens at random positions among blanks (token vocab - 2), the copy sign (vocab - 1), then "
        "`copied` blanks, at which the answers are the tokens",
    "compression": "Random tokens and, last, the compression sign (vocab - 1)",
    "memorisation": "Key, sign (vocab - 1), key, sign, ..; the answer at a sign is the value of the key",
})
# scores that are means over several shipped tasks; a plugin does not change what they mean
_MEANS = {"recall": ("in-context-recall", "fuzzy-recall", "noisy-recall"), "mad": tuple(TASKS.shipped)}


def _scores() -> dict[str, tuple[str, ...]]:
    for name in TASKS:
        if name in _MEANS:
            raise PluginError(f"task {name!r} of the package {TASKS.origin(name)} has the name of a score of"
                              " flashnas itself; uninstall the package")
    return {**_MEANS, **{name: (name,) for name in TASKS}}


SCORES = _scores()  # the mean accuracy of these tasks; each task, of a plugin too, is a score of its own


def make_task(name: str) -> Task:
    """The task of that name as every score uses it; raises ConfigError for an unknown name."""
    cls: Any = TASKS[name]
    task: Task = cls()
    return task


def groups_for(scores: Iterable[str]) -> list[tuple[str, ...]]:
    """The groups of tasks that must be trained for these scores, each by one network: tasks of one package
    with the same `Task.group`. All of a group are trained, so that a task's score does not depend on the
    other scores of the search."""
    needed = {task for score in scores for task in SCORES[score]}
    groups: dict[tuple[str, str], list[str]] = {}
    for name in TASKS:
        if TASKS.origin(name) in {TASKS.origin(task) for task in needed}:  # other packages are not imported
            groups.setdefault((TASKS.origin(name), TASKS[name].group or f"only {name}"), []).append(name)
    return [tuple(group) for group in groups.values() if needed & set(group)]


def task_tokens(scores: Iterable[str], recipe: Recipe) -> int:
    """Tokens of all trainings that these scores of one network need."""
    groups = [[make_task(name) for name in group] for group in groups_for(scores)]
    return sum(recipe.for_tasks(tasks=len(tasks), length=tasks[0].length).tokens for tasks in groups)
