"""Published trainings: what a CSV may hold, pairs and compositions, the proxies."""

import math

import numpy as np
import pytest
from cases import cases
from made_up_trainings import published
from offenders import every
from one_line import one_line

from flashnas.architecture import parse_operators
from flashnas.base.errors import ConfigError
from flashnas.loss.publications import composition
from flashnas.observations.losses import DEFAULT_TOKENS, full_width, groups_of
from flashnas.observations.read_losses import SHORT_TRAININGS, read_published
from flashnas.training.recipe import Recipe

HEAD = "group,source,operators,params,metric,value\n"


@pytest.fixture(scope="module")
def proxies(experiment):
    return experiment("short_trainings").proxies


GOOD = HEAD + "g,s,12x(a f),350M,pile_val_ppl,8.6\ng,s,24x(m2),0.35B,pile_val_ppl,8.5\n"


# -- reading ---------------------------------------------------------------------------------------


def test_perplexities_become_logarithms_and_losses_stay(tmp_path):
    path = tmp_path / "own.csv"
    text = (
        GOOD.replace("value\n", "value,vocab\n")
        + "h,x,a f,1B,val_loss,2.5,0\nh,x,d f,1.5e9,val_loss,2.4,512\n"
    )
    path.write_text(text, encoding="utf-8-sig")
    rows = read_published(path)
    assert [found.nats for found in rows] == [math.log(8.6), math.log(8.5), 2.5, 2.4]
    assert [found.params for found in rows] == [350e6, 350e6, 1e9, 1.5e9]
    assert [found.vocab for found in rows] == [32_000, 32_000, 0, 512]  # 0: params has no embedding
    assert groups_of(rows) == {"g": [0, 1], "h": [2, 3]}


@every(case=cases("loss", "wrong_rows"))
def test_what_is_wrong_in_a_csv_is_one_line(tmp_path, case):
    text, words = case
    path = tmp_path / "own.csv"
    path.write_bytes((text if "\n" in text else GOOD + text).encode("latin-1"))
    assert words in one_line(ConfigError, read_published, path)


def test_the_shipped_rows_have_sources_and_clear_pairs(shipped, experiment):
    assert len(shipped) == 269
    assert all(found.source and found.table for found in shipped)
    for places in groups_of(shipped).values():
        assert len(places) > 1
        assert len({shipped[place].source for place in places}) == 1
    pairs = experiment("left_out").pairs_of(shipped, np.zeros(len(shipped)))
    assert len({shipped[pair.one].group for pair in pairs if pair.clear}) >= 18


# -- pairs and compositions ------------------------------------------------------------------------


@every(case=cases("loss", "compositions"))
def test_a_composition_is_the_mixers_in_quarters(case):
    operators, expected = case
    assert composition(parse_operators(operators)) == tuple(map(tuple, expected))


# -- proxies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operators", "params", "hidden"),
    [
        ("64x(m2)", 2.7e9, 2560),  # Mamba2-2.7b
        ("48x(m2)", 370e6, 1024),  # Mamba2-370m
        ("24x(a f)", 350e6, 1024),  # GPT-3 medium
    ],
)
def test_full_widths_are_those_of_known_networks(operators, params, hidden):
    assert full_width(published(operators, 1.0, params=params)) == pytest.approx(hidden, rel=0.05)


def test_the_short_trainings_that_ship_are_observations(shipped, proxies, experiment):
    rows = read_published(SHORT_TRAININGS)
    assert len(rows) == 281
    assert {row.source for row in rows} == {"flashnas short trainings"}
    assert all(row.network.params == row.params for row in rows)
    assert all(0.004 < row.noise < 0.01 for row in rows)
    script = experiment("short_trainings")
    found = script.short_trainings(shipped)
    for network, training in zip(proxies(shipped, Recipe.load("cpu")), found, strict=True):
        assert training is None or training.network.hash == network.hash
    published = {row.place for row in rows if row.table.startswith("published:")}
    assert {training.place for training in found if training} == published
    assert (sum(training is not None for training in found), len(published)) == (77, 55)
    small = script.as_small_rows(shipped)
    assert {row.source for row in small} <= {row.source for row in shipped}


def test_tokens_of_each_parameter_follow_from_the_smallest_network_of_the_group(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        "group,source,operators,params,metric,value,tokens\n"
        "g,s,12x(a f),350M,x_loss,3,20 tok/param\ng,s,24x(m2),700M,x_loss,2.9,20 tok/param\n"
        "h,s,12x(a f),350M,x_loss,3,\nh,s,24x(m2),350M,x_loss,3,5B\n"
    )
    assert [found.tokens for found in read_published(path)] == [7e9, 7e9, DEFAULT_TOKENS, 5e9]
