"""What every task must do, and a plain solver for each: answers follow from what was read, one token after another."""

import numpy as np
import pytest

from flashnas.proxy.tasks import SCORES, TASKS, groups_for, make_task
from flashnas.proxy.tasks.base import IGNORED
from flashnas.proxy.tasks.mad import FuzzyRecall, InContextRecall, Memorisation, NoisyRecall, SelectiveCopying


def solve_in_context_recall(task, tokens):
    """A key that was read before has the value that followed it."""
    known, answers = {}, [IGNORED] * len(tokens)
    for at in range(0, len(tokens), 2):
        key, value = tokens[at], tokens[at + 1]
        if key < task.keys:
            answers[at] = known.get(key, IGNORED)
            known[key] = value
    return answers


def solve_fuzzy_recall(task, tokens):
    """Cut into runs of key tokens and runs of value tokens; a run of key tokens that came before has its old value."""
    runs, known, answers = [], {}, [IGNORED] * len(tokens)
    for at, token in enumerate(tokens):
        if token == task.vocab - 1:
            continue
        is_key = token < task.keys
        if not runs or runs[-1][0] != is_key:
            runs.append((is_key, []))
        runs[-1][1].append(at)
    for (_, key_at), (_, value_at) in zip(runs[::2], runs[1::2], strict=True):
        key = tuple(tokens[at] for at in key_at)
        if key in known:
            for at, token in zip(value_at, known[key], strict=True):
                answers[at - 1] = token
        known[key] = [tokens[at] for at in value_at]
    return answers


def solve_selective_copying(task, tokens):
    blank, sign = task.vocab - 2, task.vocab - 1
    place = tokens.index(sign)
    kept = [token for token in tokens[:place] if token != blank]
    assert tokens[place + 1:] == [blank] * len(kept)
    return [IGNORED] * (place + 1) + kept


def solve_compression(task, tokens):
    assert tokens[-1] == task.vocab - 1
    return [*tokens[:-1], IGNORED]


def solve_memorisation(task, tokens):
    facts = dict(enumerate(task.value_of().tolist()))
    return [IGNORED if at % 2 == 0 else facts[tokens[at - 1]] for at in range(len(tokens))]


SOLVERS = {"in-context-recall": solve_in_context_recall, "noisy-recall": solve_in_context_recall,
           "fuzzy-recall": solve_fuzzy_recall, "selective-copying": solve_selective_copying,
           "compression": solve_compression, "memorisation": solve_memorisation}


@pytest.mark.parametrize("name", list(TASKS.shipped))
def test_a_plain_solver_finds_the_answers_of_a_task(name):
    task = make_task(name)
    batch = task.test_set(20, seed=0)
    for tokens, targets in zip(batch.inputs_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        answers = SOLVERS[name](task, tokens)
        assert [answer for answer, target in zip(answers, targets, strict=True) if target != IGNORED] == [
            target for target in targets if target != IGNORED]


def test_sequences_of_the_test_set_are_drawn_again():
    tiny = SelectiveCopying(vocab=4, length=5, copied=2)   # 4 answers in 1 place: most draws would be known
    test = tiny.draw(3, np.random.default_rng(0))
    rows = {tuple(row) for row in test.inputs_BT.tolist()}
    assert len(rows) < 4
    drawn = next(tiny.batches(40, seed=0, apart_from=test))
    assert not rows & {tuple(row) for row in drawn.inputs_BT.tolist()}
    for tokens, answers in zip(drawn.inputs_BT.tolist(), drawn.targets_BT.tolist(), strict=True):
        assert answers == solve_selective_copying(tiny, tokens)


def test_recall_asks_for_the_last_key_and_draws_new_pairs_each_time():
    batch = InContextRecall().draw(100, np.random.default_rng(0))
    assert (batch.targets_BT[:, -2] != IGNORED).all()
    values = [solve_in_context_recall(InContextRecall(), row) for row in batch.inputs_BT.tolist()]
    assert len({tuple(row) for row in values}) == 100


def test_noise_has_the_stated_share_and_its_own_tokens():
    task = NoisyRecall()
    pairs = task.draw(500, np.random.default_rng(0)).inputs_BT.reshape(500, -1, 2)
    noisy = pairs >= task.vocab - task.noise_vocab
    assert (noisy[..., 0] == noisy[..., 1]).all()
    assert noisy[..., 0].mean() == pytest.approx(task.noise, abs=0.02)


def test_fuzzy_keys_have_all_sizes_in_training_and_the_full_one_in_the_test_set():
    task = FuzzyRecall()

    def key_sizes(batch):
        sizes = set()
        for row in batch.inputs_BT.tolist():
            is_key = "".join("k" if token < task.keys else "v" for token in row)
            sizes |= {len(run) for run in is_key.split("v") if run}
        return sizes

    assert key_sizes(task.draw(50, np.random.default_rng(0))) == {1, 2, 3}
    assert key_sizes(task.test_set(50, 0)) == {3}


def test_memorised_facts_are_fixed_one_to_one_and_never_shown():
    task = Memorisation()
    values = task.value_of()
    np.testing.assert_array_equal(values, Memorisation(length=8).value_of())
    assert len(set(values.tolist())) == task.keys == 127
    batch = task.test_set(50, seed=5)
    assert not np.isin(batch.inputs_BT, values).any()


def test_scores_are_made_of_tasks_and_every_task_is_trained_in_one_group():
    groups = groups_for(SCORES)
    assert groups == [("in-context-recall", "fuzzy-recall", "noisy-recall"), ("selective-copying",), ("compression",),
                      ("memorisation",)]
    assert sorted(name for group in groups for name in group) == sorted(TASKS)
    assert all(set(tasks) <= set(TASKS) for tasks in SCORES.values())
    assert groups_for(["recall"]) == groups_for(["noisy-recall"]) == [groups[0]]
    assert groups_for(["mad"]) == groups
    assert groups_for([]) == []
    for group in groups:
        assert len({(make_task(name).length, make_task(name).from_last) for name in group}) == 1
