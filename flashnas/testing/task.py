"""The contract of a synthetic task."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from flashnas.proxy.tasks import SCORES, TASKS, make_task
from flashnas.proxy.tasks.base import IGNORED, Batch, Task
from flashnas.testing.require import require

Solver = Callable[[Task, list[int]], Sequence[int]]
CHANCE_TOLERANCE = 0.15  # relative; of the most frequent answer among about 3,000 sequences


def check_task(task: type[Task] | Task | str, solver: Solver | None = None) -> None:
    """Check that a task keeps its contract.

    Args:
        task: a task, its class, or its name in the registry.
        solver: (task, the tokens of one sequence) -> the answers, as a plain program finds them; IGNORED
            where there is none. It proves that the answers follow from the tokens.

    Raises:
        AssertionError: one line that names the task, the rule and the value.
    """
    instance = task_of(task)
    check_statements(instance)
    check_sequences(instance)
    check_seeds(instance)
    check_test_set_is_held_out(instance)
    check_chance(instance)
    if solver is not None:
        for test in (False, True):
            check_answers(instance, solver, test=test)


def task_of(task: type[Task] | Task | str) -> Task:
    """The task that a check is about."""
    if isinstance(task, str):
        return make_task(task)
    if isinstance(task, Task):
        return task
    try:
        return task()  # type: ignore[call-arg]  # the fields of a concrete task have defaults
    except TypeError as error:
        raise AssertionError(f"task {task.__name__} must be made without arguments: {error}") from error


def check_statements(task: Task) -> None:
    """Name, size and chance are stated as they must be, and equal tasks are equal."""
    require(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", task.name) and task.name != "loss",
            f"task {task.name!r}: name must be lower-case words with hyphens between them, other than 'loss'")
    require(task.name not in SCORES or SCORES[task.name] == (task.name,),
            f"task {task.name!r}: name must not be that of a score of several tasks")
    if task.name in TASKS:
        require(TASKS[task.name] is type(task),
                f"task {task.name!r}: the registry has another class of that name, {TASKS[task.name]}")
    for field, least in (("vocab", 2), ("length", 2)):
        value = getattr(task, field)
        require(type(value) is int and value >= least,
                f"task {task.name!r}: {field} must be a whole number of at least {least}; got {value!r}")
    require(0 < task.chance < 1, f"task {task.name!r}: chance must be between 0 and 1; got {task.chance!r}")
    require(dataclasses.replace(task) == task and hash(dataclasses.replace(task)) == hash(task),
            f"task {task.name!r}: two tasks with the same fields must be equal (use a frozen dataclass)")


def check_sequences(task: Task, count: int = 50) -> None:
    """Sequences have the stated length and vocabulary, and each one has an answer."""
    for what, batch in (("the test set", task.test_set(count, seed=0)),
                        ("training", task.draw(count, np.random.default_rng(0)))):
        place = f"task {task.name!r}, {what}"
        for name, tokens_BT in zip(batch._fields, batch, strict=True):
            require(tokens_BT.shape == (count, task.length),
                    f"{place}: {name} must have the shape {(count, task.length)}; got {tokens_BT.shape}")
            require(tokens_BT.dtype == np.int64, f"{place}: {name} must be int64; got {tokens_BT.dtype}")
        answers = batch.targets_BT[batch.targets_BT != IGNORED]
        for name, tokens in (("inputs", batch.inputs_BT), ("targets", answers)):
            wrong = tokens[(tokens < 0) | (tokens >= task.vocab)]
            require(not wrong.size, f"{place}: {name} must be 0..{task.vocab - 1}"
                                    f"{' or IGNORED' if name == 'targets' else ''}; got {wrong[:1]}")
        require((batch.targets_BT != IGNORED).any(1).all(),
                f"{place}: each sequence must have at least one answer")


def check_seeds(task: Task) -> None:
    """The seed fixes every sequence, whatever the global random state is."""
    def everything(seed: int) -> np.ndarray:
        test = task.test_set(8, seed)
        batches = task.batches(8, seed, apart_from=test)
        return np.concatenate([np.concatenate(batch, 1)
                               for batch in (test, *(next(batches) for _ in range(3)))])

    require((everything(1) == everything(1)).all(),
            f"task {task.name!r}: the same seed must give the same sequences")
    require((everything(1) != everything(2)).any(),
            f"task {task.name!r}: another seed must give other sequences")


def check_test_set_is_held_out(task: Task) -> None:
    """No training sequence is in the test set."""
    test = task.test_set(64, seed=0)
    rows = {tuple(row) for row in test.inputs_BT.tolist()}
    batches = task.batches(64, seed=0, apart_from=test)
    trained = {tuple(row) for _ in range(10) for row in next(batches).inputs_BT.tolist()}
    require(not rows & trained, f"task {task.name!r}: a training sequence is in the test set")


def check_chance(task: Task) -> None:
    """The most frequent answer is right about as often as `chance` states."""
    answers = task.draw(3000, np.random.default_rng(0)).targets_BT
    counts = np.unique(answers[answers != IGNORED], return_counts=True)[1]
    share = counts.max() / counts.sum()
    require(abs(share / task.chance - 1) <= CHANCE_TOLERANCE,
            f"task {task.name!r}: chance is {task.chance:.3g}, but the most frequent answer is right in a"
            f" share of {share:.3g}")


def check_answers(task: Task, solver: Solver, *, test: bool, count: int = 200) -> None:
    """The answers are those of a plain solver, which reads one token after another."""
    batch: Batch = task.draw(count, np.random.default_rng(3), test=test)
    for tokens, answers in zip(batch.inputs_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        solved = list(solver(task, tokens))
        require(solved == answers,
                f"task {task.name!r}: for {tokens} the answers are {answers}, the solver has {solved}")
