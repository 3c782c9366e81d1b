"""The task keeps the contract of flashnas, its answers are those of a plain solver, and a network learns it."""

from flashnas_task.state_tracking import PERMUTATIONS, StateTracking

from flashnas.architecture import Architecture
from flashnas.proxy.tasks import SCORES
from flashnas.proxy.tasks.train import task_scores
from flashnas.testing import check_task
from flashnas.training.recipe import Recipe


def move_cups(task, tokens):
    """Moves three cups, one token after the other."""
    cups, answers = (0, 1, 2), []
    for token in tokens:
        cups = tuple(cups[place] for place in PERMUTATIONS[token])
        answers.append(PERMUTATIONS.index(cups))
    return answers


def test_contract():
    check_task("state-tracking", move_cups)
    check_task(StateTracking(length=5), move_cups)


def test_its_accuracy_is_a_score_that_training_raises():
    assert SCORES["state-tracking"] == ("state-tracking",)
    recipe = Recipe(width_factor=1, dtype="float32", tasks={"steps": 40, "batch_tokens": 512, "test_sequences": 64})
    scores = task_scores(Architecture.parse("32: gd(head_dim=16) f"), ["state-tracking"], recipe, seed=0)
    assert scores["state-tracking"] > 1.2 * StateTracking().chance
