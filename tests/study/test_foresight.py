"""The models of one search: what is expected of a network before and after its short training."""

import dataclasses
import math

import numpy as np
import pytest
from foretelling import asked, question_of

from flashnas.architecture import Architecture
from flashnas.runs.front import EXPECTED_FIGURES
from flashnas.study import foresight as room
from flashnas.study.config import SearchConfig
from flashnas.study.foresight import Foresight, recipe_read, silence
from flashnas.training.recipe import Recipe

HYBRID = Architecture.parse("1536: 4x(m2 f m2 f a f)")
STATES = Architecture.parse("1536: 12x(m2 f)")
BARE = Architecture.parse("1536: 12x(d)")


@pytest.fixture(scope="module")
def unread():
    return asked("nemotron_flash", 1500.0, trials=0)[2]


@pytest.fixture(scope="module")
def read():
    return asked("nemotron_flash", 1500.0, recipe=Recipe.load("cpu"))[2]


def test_the_recipe_that_was_held_against_publications_is_read_under_any_name():
    cpu = Recipe.load("cpu")
    assert recipe_read(cpu) is cpu
    assert recipe_read(dataclasses.replace(cpu, name="mine")).name == "mine"
    assert recipe_read(None) is None
    for changed in (
        dataclasses.replace(cpu, tokens=2 * cpu.tokens),
        dataclasses.replace(cpu, width_factor=8),
    ):
        assert recipe_read(changed) is None


def test_a_recipe_that_was_not_is_told_in_one_line():
    space, fitter, _ = asked("nemotron_flash", 1500.0)
    config = SearchConfig(space="nemotron_flash", workload="decode-1k")
    for recipe, count in (
        (Recipe.load("cpu"), 0),
        (None, 0),
        (dataclasses.replace(Recipe.load("cpu"), name="short", tokens=65_536), 1),
    ):
        question = question_of(config, space, fitter, recipe)
        found, notes = question.foresight, question.notes
        assert len(notes) == count
        assert (found.recipe is None) == (recipe is None or bool(count))
        assert found.to_dict()["reads_short_loss"] == (found.recipe is not None)
    assert "recipe 'short'" in notes[0]
    assert "\n" not in notes[0]


def test_figures_are_computed_once(read, monkeypatch):
    counted = []
    predict = Foresight.predict

    def counting(self, networks, losses=None):
        counted.append(len(networks))
        return predict(self, networks, losses)

    monkeypatch.setattr(Foresight, "predict", counting)
    network = Architecture.parse("1280: 7x(m2 f a f)")
    first = read.figures(network, 4.0)
    assert first == read.figures(Architecture.parse("1280: 7x(m2 f a f)"), 4.0)
    assert counted == [1]
    read.figures(network, 4.1)
    read.figures(network)
    assert len(counted) == 3
    assert set(first) == {*EXPECTED_FIGURES, "outside"}
    assert read.figures("a network of another package") == {}


def test_a_short_loss_says_nothing_where_there_is_none_or_it_is_not_read(read, unread):
    assert (
        read.beyond(HYBRID, None)
        == read.beyond(HYBRID, math.nan)
        == unread.beyond(HYBRID, 4.0)
        == 0.0
    )
    assert unread.figures(HYBRID, 3.0) == unread.figures(HYBRID, 5.0) == unread.figures(HYBRID)
    assert unread.moves([HYBRID]).tolist() == [0.0]
    assert (read.moves([HYBRID]) > 0).all()
    assert read.figures(HYBRID)["full_loss"] == pytest.approx(read.predict([HYBRID]).mean[1])


def test_a_lower_short_loss_lowers_the_full_loss_but_by_less(read):
    losses = np.linspace(4.0, 4.6, 7)
    full = [read.figures(HYBRID, loss)["full_loss"] for loss in losses.tolist()]
    steps = np.diff(full)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert steps[0] < np.diff(losses)[0]
    recalls = {read.figures(HYBRID, loss)["expected_recall"] for loss in losses.tolist()}
    assert len(recalls) == 1


def test_standard_deviations_are_of_the_difference_to_the_reference(read):
    assert read.figures(read.reference)["full_loss_sd"] == pytest.approx(0.0, abs=1e-6)
    assert {spec.kind for spec in read.reference.operators if spec.mixes_tokens} in (
        {"d"},
        {"a"},
        {"m2"},
    )
    assert read.figures(HYBRID)["full_loss_sd"] > 0


def test_a_training_moves_more_where_publications_are_silent(read):
    assert (
        silence(read.model, [HYBRID, STATES], 1e11).max()
        < 1e-9
        < silence(read.model, [BARE], 1e11)[0]
    )
    assert read.moves([BARE])[0] > read.moves([HYBRID])[0]
    assert read.figures(BARE)["outside"]
    assert read.figures(HYBRID)["outside"] == ""


def test_recall_does_not_depend_on_what_is_asked_together(read, monkeypatch):
    networks = [HYBRID, STATES, BARE, HYBRID, Architecture.parse("1024: 6x(a f)")]
    together = read.recalls(networks)
    monkeypatch.setattr(room, "TOGETHER", 2)
    np.testing.assert_allclose(read.recalls(networks), together, atol=1e-12)
    np.testing.assert_allclose(
        together, [read.figures(network)["expected_recall"] for network in networks], atol=1e-9
    )


def test_the_digest_changes_with_all_that_changes_the_figures(read, unread, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(
        "group,source,operators,params,hidden,tokens,metric,value\n"
        "mine,me,12x(m2 f),300M,1024,10B,val_loss,2.9\n"
        "mine,me,4x(m2 f m2 f a f),300M,1024,10B,val_loss,2.8\n"
    )
    long, mine = (
        asked("nemotron_flash", 1500.0, trials=0, **more)[2]
        for more in ({"train_tokens": "200B"}, {"evidence": str(own)})
    )
    digests = [read.digest, unread.digest, long.digest, mine.digest]
    assert len(set(digests)) == 4
    assert unread.digest == asked("nemotron_flash", 1500.0, trials=0)[2].digest
    assert mine.to_dict()["source"]["own"]["path"] == str(own)


def test_trainings_longer_than_those_of_publications_are_extrapolated():
    assert not asked("nemotron_flash", 1500.0, trials=0)[2].extrapolated
    long = asked("nemotron_flash", 1500.0, trials=0, train_tokens="500T")[2]
    assert long.extrapolated
    assert "training tokens" in long.figures(HYBRID)["outside"]


def test_the_shape_of_equal_networks_makes_no_difference(read):
    assert read.shape_part([HYBRID, HYBRID]) == 0.0
    wide, deep = Architecture.parse("2560: 3x(a f)"), Architecture.parse("1024: 19x(a f)")
    assert read.shape_part([wide, deep]) == -read.shape_part([deep, wide]) != 0
