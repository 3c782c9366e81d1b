"""Training on tasks: it learns, repeats itself, keeps vocabularies apart, and says why it breaks off."""

import dataclasses

import numpy as np
import pytest
import torch
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import CandidateError, ConfigError
from flashnas.network.model import HybridLM
from flashnas.proxy.tasks import task_tokens
from flashnas.proxy.tasks import train as train_module
from flashnas.proxy.tasks.base import IGNORED
from flashnas.proxy.tasks.mad import Compression, FuzzyRecall, InContextRecall, Memorisation
from flashnas.proxy.tasks.train import FromLast, place_codes, score_tasks, side_by_side
from flashnas.training.recipe import Recipe

torch.set_num_threads(1)

TINY = Architecture.parse("32: d(head_dim=16) f")
RECALL = InContextRecall(vocab=8, length=16)


def recipe(**tasks):
    return Recipe(width_factor=1, dtype="float32",
                  tasks={"steps": 60, "batch_tokens": 256, "test_sequences": 32, **tasks})


def test_a_delta_rule_finds_values_again_and_a_network_that_does_not_mix_tokens_cannot():
    able = score_tasks(TINY, [RECALL], recipe(), seed=0)["in-context-recall"]
    blind = score_tasks(Architecture.parse("32: f f"), [RECALL], recipe(), seed=0)["in-context-recall"]
    assert able > 0.8
    assert blind < 0.6  # it sees the previous token only


def test_facts_are_kept_in_the_weights_without_any_mixing():
    task = Memorisation(vocab=33, length=8)
    assert score_tasks(Architecture.parse("32: f"), [task], recipe(steps=80), seed=0)["memorisation"] > 0.9


def test_compression_beats_guessing_only_with_a_mixer():
    task = Compression(vocab=5, length=5)
    able = score_tasks(Architecture.parse("32: a(head_dim=16) f"), [task], recipe(steps=80), seed=0)["compression"]
    assert able > 2 * task.chance


def test_the_seed_fixes_every_accuracy():
    tasks = [RECALL, FuzzyRecall(length=16)]
    first, again, other = (score_tasks(TINY, tasks, recipe(steps=4), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert list(first) == ["in-context-recall", "fuzzy-recall"]
    assert first != other


def test_tasks_are_computed_by_the_backend_of_the_recipe(monkeypatch):
    asked = []
    monkeypatch.setattr(train_module, "HybridLM", lambda *arguments: asked.append(arguments) or HybridLM(*arguments))
    score_tasks(TINY, [RECALL], dataclasses.replace(recipe(steps=1), backend="torch"), seed=0)
    assert [arguments[1] for arguments in asked] == ["torch"]


def test_vocabularies_stand_side_by_side():
    tasks = [RECALL, FuzzyRecall(length=16)]
    apart = [task.test_set(3, 0) for task in tasks]
    joined = side_by_side(tasks, apart)
    assert joined.inputs_BT[:3].max() < 8 <= joined.inputs_BT[3:].min()
    np.testing.assert_array_equal(joined.inputs_BT[3:], apart[1].inputs_BT + 8)
    counts = apart[1].targets_BT != IGNORED
    np.testing.assert_array_equal(joined.targets_BT[3:][counts], apart[1].targets_BT[counts] + 8)
    assert (joined.targets_BT[3:][~counts] == IGNORED).all()


def test_answers_from_the_last_position_depend_on_all_inputs_and_nothing_else():
    torch.manual_seed(0)
    reader = FromLast(HybridLM(dataclasses.replace(TINY, vocab=8)), 6, recipe())
    inputs = torch.randint(8, (2, 6))
    logits = reader._logits(inputs)
    assert logits.shape == (2, 6, 8)
    changed = inputs.clone()
    changed[0, 1] = (changed[0, 1] + 1) % 8
    moved = (reader._logits(changed) - logits).abs().amax(-1)
    assert (moved[0] > 0).all()
    assert (moved[1] == 0).all()
    codes = place_codes(6, 32)
    assert len({tuple(row) for row in codes.tolist()}) == 6


def test_a_broken_training_and_a_time_limit_say_so():
    with pytest.raises(CandidateError, match="in-context-recall: loss or gradient became NaN or infinite in step"):
        score_tasks(TINY, [RECALL], recipe(adamw_lr=1e30, muon_lr=1e30), seed=0)
    with pytest.raises(CandidateError, match="time limit: 0 s were over in step 1 of in-context-recall"):
        score_tasks(TINY, [RECALL], recipe(), seed=0, deadline_s=0)


def test_tasks_of_one_group_need_one_length():
    with pytest.raises(ConfigError, match=r"tasks in-context-recall, fuzzy-recall have one group, so that they need one"
                                          r" length and one from_last; got \(16, False\), \(64, False\)"):
        score_tasks(TINY, [RECALL, FuzzyRecall()], recipe(), seed=0)


def test_a_score_is_the_mean_of_its_tasks_and_each_group_is_trained_once(monkeypatch):
    trained = []

    def pretend(architecture, tasks, recipe, seed, deadline_s):
        trained.append([task.name for task in tasks])
        return {task.name: 0.1 * (len(trained) + number) for number, task in enumerate(tasks)}

    monkeypatch.setattr(train_module, "score_tasks", pretend)
    scores = train_module.task_scores(TINY, ["recall", "noisy-recall", "memorisation"], recipe(), 0)
    assert trained == [["in-context-recall", "fuzzy-recall", "noisy-recall"], ["memorisation"]]
    assert scores["recall"] == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert scores["noisy-recall"] == pytest.approx(0.3)
    assert set(scores) == {"recall", "in-context-recall", "fuzzy-recall", "noisy-recall", "memorisation"}


def test_the_tokens_of_the_tasks_are_those_that_were_trained(monkeypatch):
    seen, kept = [], train_module.side_by_side

    def listened(tasks, batches):
        seen.append(found := kept(tasks, batches))
        return found

    monkeypatch.setattr(train_module, "side_by_side", listened)
    asked = recipe(steps=3, test_sequences=2)
    train_module.task_scores(TINY, ["noisy-recall", "memorisation"], asked, 0)
    batches = [batch for place, batch in enumerate(seen, start=1) if place % 4]  # the fourth is the test set
    assert len(batches) == 6
    assert task_tokens(["noisy-recall", "memorisation"], asked) == sum(batch.inputs_BT.size for batch in batches)


@every(case=[
    ({"step": 3}, "recipe.tasks has no option 'step' (did you mean 'steps'?)"),
    ({"steps": 0}, "recipe.tasks.steps must be at least 1; got 0"),
    ({"steps": 2.5}, "recipe.tasks.steps must be a whole number; got 2.5"),
    ({"muon_lr": 0}, "recipe.tasks.muon_lr must be above 0; got 0"),
])
def test_settings_are_checked_where_they_stand(tmp_path, case):
    tasks, words = case
    path = tmp_path / "r.yaml"
    Recipe(tasks={"steps": 3}).save(path)
    assert Recipe.load(path).task_training.steps == 3
    path.write_text(f"vocab: 300\ntasks: {str(tasks).replace(chr(39), '')}\n")
    message = one_line(ConfigError, Recipe.load, path)
    assert words in message
    assert f"{path}:2" in message
