"""Hints in error messages."""

from flashnas.base.text import did_you_mean, one_of


def test_only_a_close_value_is_suggested():
    assert did_you_mean("vocabs", ["vocab", "tied"]) == " (did you mean 'vocab'?)"
    assert did_you_mean("zzz", ["vocab", "tied"]) == ""
    assert did_you_mean(None, []) == ""


def test_one_of_names_place_rule_and_value():
    assert one_of("f.yaml:3: ratio", "1:4", iter(["0:1", "1:1"])) == (
        "f.yaml:3: ratio must be one of 0:1, 1:1; got '1:4' (did you mean '1:1'?)"
    )
