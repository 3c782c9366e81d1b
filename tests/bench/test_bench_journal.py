import dataclasses
import json
from pathlib import Path

import pytest
from bench_builder import header, made_up_trainings
from one_line import one_line

from flashnas.base.errors import BenchError
from flashnas.bench.journal import Header, Training, grow, journals_in, merged
from flashnas.training.recipe import Recipe
from flashnas.training.store import TrainingStore

RECIPE = Recipe(width_factor=1, vocab=300)


@pytest.fixture(scope="module")
def trainings():
    return made_up_trainings(RECIPE, vocab=300, count=6)


def write(path, trainings, head=None):
    """A journal as a growth leaves it."""
    with TrainingStore(path, (head or header(RECIPE)).to_dict(), Training, BenchError) as store:
        for training in trainings:
            store.add(training)
    return path


@pytest.fixture
def journal(tmp_path, trainings):
    """A journal of four trainings."""
    return write(tmp_path / "trainings.jsonl", trainings[:4])


def again(journal, head):
    """The same journal grown once more, by a list of nothing."""
    return grow([], journal, head, Path("dataset"), Pool(), lambda *_: None, workers=1)


class Pool:
    def run(self, jobs, on_wait=None):
        assert not jobs
        return iter(())


def test_a_journal_gives_back_what_was_added(journal, trainings):
    found, kept = merged([journal])
    assert kept == trainings[:4]
    assert (found, found.made_by) == (header(RECIPE), {"flashnas": "0.1.0"})
    assert again(journal, header(RECIPE))["asked"] == 0


def test_another_recipe_or_text_is_refused_in_one_line(journal):
    changed = dataclasses.replace(RECIPE, lr_multipliers={"d": 2.0})
    for other, words in (
            (header(changed), "recipe.lr_multipliers is {} in the bench and {'d': 2.0} here"),
            (header(RECIPE, vocab=301), "the vocabulary has 300 tokens in the bench and 301 here"),
            (header(RECIPE, dataset="1" * 24), f"have the digest {'0' * 24} (sotu) in the bench and {'1' * 24} here")):
        message = one_line(BenchError, again, journal, other)
        assert "holds a bench of another recipe or text" in message
        assert words in message


def test_what_the_loss_of_a_network_does_not_depend_on_may_differ():
    one = header(RECIPE)
    for same in (dataclasses.replace(RECIPE, name="other"), dataclasses.replace(RECIPE, width_factor=16),
                 dataclasses.replace(RECIPE, tasks={"steps": 20})):
        assert one.difference(same, one.dataset, one.vocab) is None
        assert header(same).digest == one.digest
    assert header(dataclasses.replace(RECIPE, clip=2.0)).digest != one.digest


def test_a_recipe_that_was_recorded_before_a_field_existed_has_its_default():
    data = header(RECIPE).to_dict()
    del data["recipe"]["conv_noise"]
    assert Header.from_dict(data, "x").digest == header(RECIPE).digest


BROKEN = [
    (4, lambda line: edit(line, architecture="64: q"), "operator must be one of"),
    (4, lambda line: edit(line, proxy="64: q"), "operator must be one of"),
    (1, lambda line: edit(line, flashnas_bench=2), "a bench of format 2; this version of flashnas"),
    (1, lambda line: "{}", "not the header of a bench"),
    (1, lambda line: edit(line, vocab="many"), "header.vocab must be a whole number; got 'many'"),
    (1, lambda line: edit(line, recipe={"tokns": 1}), "recipe has no key 'tokns'"),
]


def edit(line, **changes):
    return json.dumps({**json.loads(line), **changes})


def test_damage_is_one_line_with_its_place(journal):
    whole = journal.read_text().splitlines()
    for number, damage, words in BROKEN:
        lines = [*whole]
        lines[number - 1] = damage(lines[number - 1])
        journal.write_text("\n".join(lines) + "\n")
        message = one_line(BenchError, merged, [journal])
        assert message.startswith(f"{journal}:{number}: ")
        assert words in message


def test_journals_merge_without_repeats(journal, trainings, tmp_path):
    changed = dataclasses.replace(trainings[3], loss=9.0)
    other = write(tmp_path / "elsewhere" / "trainings-2-of-2.jsonl", (changed, trainings[4], trainings[5]))
    found, kept = merged([*journals_in(tmp_path), *journals_in(other)])
    assert found == header(RECIPE)
    assert kept == trainings  # the first journal's word counts
    assert journals_in(tmp_path) == [journal]


def test_journals_of_different_recipes_do_not_merge(journal, tmp_path):
    other = write(tmp_path / "trainings-2.jsonl", [], header(dataclasses.replace(RECIPE, clip=2.0)))
    with pytest.raises(BenchError, match="is of another recipe or text than") as error:
        merged([journal, other])
    assert "recipe.clip is 1.0 in trainings.jsonl and 2.0 here" in str(error.value)
    with pytest.raises(BenchError, match="no journal of a bench"):
        merged([])
