"""Hints in error messages."""

import math

import pytest

from flashnas.base.text import did_you_mean, number, number_of, one_of, tokens_of, tokens_text


def test_only_a_close_value_is_suggested():
    assert did_you_mean("vocabs", ["vocab", "tied"]) == " (did you mean 'vocab'?)"
    assert did_you_mean("zzz", ["vocab", "tied"]) == ""
    assert did_you_mean(None, []) == ""


def test_numbers_of_tokens():
    for text, tokens in (
        ("100B", 1e11),
        ("1.5T", 1.5e12),
        ("262144", 262144),
        (" 3K ", 3000),
        (5, 5),
    ):
        assert tokens_of(text) == tokens
        assert tokens_of(tokens_text(tokens)) == pytest.approx(tokens, rel=0.005)
    assert math.isnan(number_of("8M", {"": 1}))
    assert number_of("8.5", {"": 1}) == 8.5
    assert number_of("2.3M") == 2_300_000
    for text in ("1_0B", "\uff11\uff10", "nan", "inf", "-1"):
        assert math.isnan(number_of(text))
    assert tokens_text(999.6e9) == "1T"


def test_numbers_are_written_without_exponents():
    said = [number(value) for value in (0.00001834, -0.25, 0.0, 999.96, 12_730.0, 2e7)]
    assert said == ["0.00001834", "-0.25", "0", "1000", "12,730", "20,000,000"]


def test_one_of_names_place_rule_and_value():
    assert one_of("f.yaml:3: ratio", "1:4", iter(["0:1", "1:1"])) == (
        "f.yaml:3: ratio must be one of 0:1, 1:1; got '1:4' (did you mean '1:1'?)"
    )
