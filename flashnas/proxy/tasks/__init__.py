"""The synthetic tasks by name, after MAD (arXiv 2403.17844), and the scores made of them. No torch, nothing heavy.

A task is imported when it is asked for. `GROUPS` says which are learned by one network at once: the three kinds of
recall ask for the same skill, so a network learns them together in the steps that one alone would take.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashnas.proxy.tasks.base import Task

__all__ = ["GROUPS", "SCORES", "TASKS", "groups_for", "make_task"]

TASKS: dict[str, str] = {
    "in-context-recall": "flashnas.proxy.tasks.in_context_recall:InContextRecall",
    "fuzzy-recall": "flashnas.proxy.tasks.fuzzy_recall:FuzzyRecall",
    "noisy-recall": "flashnas.proxy.tasks.noisy_recall:NoisyRecall",
    "selective-copying": "flashnas.proxy.tasks.selective_copying:SelectiveCopying",
    "compression": "flashnas.proxy.tasks.compression:Compression",
    "memorisation": "flashnas.proxy.tasks.memorisation:Memorisation",
}
_RECALL = ("in-context-recall", "fuzzy-recall", "noisy-recall")
GROUPS: tuple[tuple[str, ...], ...] = (_RECALL, *((name,) for name in TASKS if name not in _RECALL))
# a score is the mean accuracy of its tasks, each of which is a score of its own
SCORES: dict[str, tuple[str, ...]] = {"recall": _RECALL, "mad": tuple(TASKS), **{name: (name,) for name in TASKS}}


def make_task(name: str) -> Task:
    """The task of that name as every score uses it."""
    module, _, attribute = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)()
    return task


def groups_for(scores: Iterable[str]) -> list[tuple[str, ...]]:
    """The groups that must be trained for these scores."""
    wanted = {task for score in scores for task in SCORES[score]}
    return [group for group in GROUPS if wanted & set(group)]
