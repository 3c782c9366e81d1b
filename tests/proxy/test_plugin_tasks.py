"""A task of another package is a score of its own, found by spawned workers, and changes no score of flashnas."""

import pytest
from fake_plugins import run_with, write_plugin

PARITY = """\
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import Batch, Task


@dataclass(frozen=True, kw_only=True)
class Parity(Task):
    name: ClassVar[str] = "parity"
    group: ClassVar[str] = "recall"
    vocab: int = 2
    length: int = 16
    chance = 0.5

    def draw(self, count, rng, *, test=False):
        inputs_BT = rng.integers(2, size=(count, self.length))
        return Batch(inputs_BT, inputs_BT.cumsum(1) % 2)


@dataclass(frozen=True, kw_only=True)
class Odd(Parity):
    name: ClassVar[str] = "odd"
"""
TASKS = {"parity": "parity_tasks:Parity", "odd": "parity_tasks:Odd"}


@pytest.fixture
def plugin(tmp_path):
    return write_plugin(tmp_path, "flashnas-parity", {"flashnas.tasks": TASKS}, {"parity_tasks.py": PARITY})


def test_a_plugin_task_is_a_score_and_an_objective_and_does_not_join_a_group_of_flashnas(plugin):
    lines = run_with(plugin, """if True:
        import sys
        from flashnas.proxy.tasks import SCORES, TASKS, groups_for
        from flashnas.search.objectives import check_objectives, larger_is_better
        print(SCORES["parity"], TASKS.origin("parity"), "parity" in SCORES["mad"], "parity_tasks" in sys.modules)
        recall = groups_for(["recall"])
        print(recall == groups_for(["noisy-recall"]), recall, "parity_tasks" in sys.modules)
        print(groups_for(["parity", "compression"]))
        print(check_objectives(["latency_ms", "parity"], print), larger_is_better("parity"))
    """).splitlines()
    recall = "[('in-context-recall', 'fuzzy-recall', 'noisy-recall')]"
    assert lines == ["('parity',) flashnas-parity False False", f"True {recall} False",
                     "[('compression',), ('odd', 'parity')]", "('parity', 'latency_ms') True"]


@pytest.mark.slow
def test_a_spawned_worker_finds_and_trains_it(plugin):
    (plugin / "jobs.py").write_text("""if True:
        def score(seed):
            from flashnas.architecture import Architecture
            from flashnas.proxy.tasks.train import task_scores
            from flashnas.proxy.worker import single_thread
            from flashnas.training.recipe import Recipe
            single_thread()
            recipe = Recipe(width_factor=1, dtype="float32",
                            tasks={"steps": 2, "batch_tokens": 64, "test_sequences": 8})
            return task_scores(Architecture.parse("32: d(head_dim=16)"), ["parity"], recipe, seed)
    """)
    assert run_with(plugin, """if True:
        import multiprocessing
        from jobs import score
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                scores = pool.apply(score, [0])
            print(sorted(scores), scores == score(0), all(0 <= value <= 1 for value in scores.values()))
    """) == "['odd', 'parity'] True True"


def test_a_task_with_the_name_of_a_score_is_refused(tmp_path):
    folder = write_plugin(tmp_path, "flashnas-parity", {"flashnas.tasks": {"mad": "parity_tasks:Parity"}})
    assert run_with(folder, """if True:
        from flashnas.base.errors import PluginError
        try:
            import flashnas.search.objectives
        except PluginError as error:
            print(error)
    """) == ("task 'mad' of the package flashnas-parity has the name of a score of flashnas itself; uninstall the"
             " package")
