"""The contract refuses each way in which a task can be wrong, in one line that names the rule."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from offenders import every
from one_line import one_line

from flashnas.proxy.tasks.base import IGNORED, Batch, Task
from flashnas.testing import check_task

BROKEN = np.random.default_rng(0)


@dataclass(frozen=True, kw_only=True)
class Parity(Task):
    """At every position: is the number of ones so far odd?"""

    name: ClassVar[str] = "parity"
    vocab: int = 2
    length: int = 24

    @property
    def chance(self):
        return 0.5

    def draw(self, count, rng, *, test=False):
        inputs_BT = rng.integers(2, size=(count, self.length))
        return Batch(inputs_BT, inputs_BT.cumsum(1) % 2)


def solve(task, tokens):
    return [sum(tokens[:end]) % 2 for end in range(1, len(tokens) + 1)]


def variant(change=lambda batch: batch, **attributes):
    """A class of its own whose sequences are changed."""
    def draw(self, count, rng, *, test=False):
        return change(Parity.draw(self, count, rng, test=test))

    return dataclass(frozen=True, kw_only=True)(type("Variant", (Parity,), {"draw": draw, **attributes}))


@every(task=[Parity, Parity(), Parity(length=30), "memorisation", variant()])
def test_a_good_task_passes(task):
    check_task(task, None if isinstance(task, str) else solve)


class Needs(Parity):
    def __init__(self, difficulty):
        raise AssertionError("is never made")


@every(case=[
    (variant(name="Parity of bits"), "task 'Parity of bits': name must be lower-case words with hyphens"),
    (variant(name="loss"),
     "task 'loss': name must be lower-case words with hyphens between them, other than 'loss'"),
    (variant(name="mad"), "task 'mad': name must not be that of a score of several tasks"),
    (variant(name="memorisation"), "task 'memorisation': the registry has another class of that name"),
    (Parity(vocab=1), "vocab must be a whole number of at least 2; got 1"),
    (Parity(length=2.5), "length must be a whole number of at least 2; got 2.5"),
    (variant(chance=0.0), "chance must be between 0 and 1; got 0.0"),
    (variant(chance=0.2), "chance is 0.2, but the most frequent answer is right in a share of 0.50"),
    (variant(__eq__=lambda self, other: self is other, __hash__=object.__hash__),
     "must be equal (use a frozen dataclass)"),
    (Needs, "task Needs must be made without arguments: "),
    (variant(lambda batch: Batch(batch.inputs_BT, batch.targets_BT[:, 1:])),
     "targets_BT must have the shape (50, 24); got (50, 23)"),
    (variant(lambda batch: Batch(batch.inputs_BT.astype(np.int32), batch.targets_BT)),
     "inputs_BT must be int64; got int32"),
    (variant(lambda batch: Batch(batch.inputs_BT + 1, batch.targets_BT)), "inputs must be 0..1; got [2]"),
    (variant(lambda batch: Batch(batch.inputs_BT, batch.targets_BT - 1)),
     "targets must be 0..1 or IGNORED; got [-1]"),
    (variant(lambda batch: Batch(batch.inputs_BT,
                                 np.where(batch.inputs_BT[:, :1], IGNORED, batch.targets_BT))),
     "each sequence must have at least one answer"),
    (variant(lambda batch: Batch(batch.inputs_BT, BROKEN.permuted(batch.targets_BT, axis=1))),
     "the same seed must give the same sequences"),
    (variant(test_set=lambda self, count, seed: Parity.draw(self, count, np.random.default_rng(0)),
             batches=lambda self, count, seed,
             apart_from: iter([self.draw(count, np.random.default_rng(0))] * 20)),
     "another seed must give other sequences"),
    (variant(batches=lambda self, count, seed, apart_from: Parity.batches(self, count, seed, apart_from)
             if count == 8 else iter([self.test_set(count, seed)] * 20)),
     "a training sequence is in the test set"),
    (variant(lambda batch: Batch(batch.inputs_BT, 1 - batch.targets_BT)), "the solver has"),
])
def test_a_broken_task_is_refused(case):
    task, words = case
    assert words in one_line(AssertionError, check_task, task, solve)
