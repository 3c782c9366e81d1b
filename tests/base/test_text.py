"""Hints in error messages."""

import math

import pytest

from flashnas.base.text import did_you_mean, number, number_of, one_of, tokens_of, tokens_text


@pytest.mark.parametrize(
    ("given", "allowed", "meant"),
    [
        ("vocabs", ["vocab", "tied"], "vocab"),
        ("zzz", ["vocab", "tied"], None),
        ("", ["vocab"], None),
        (None, [], None),
        ("--dense", ["--evidence", "--seed"], None),
        ("--fast", ["--data", "--table"], None),
        ("--mode", ["--budget", "--table"], None),
        ("--hours", ["--train-hours", "--tokens"], "--train-hours"),
        ("--buget-ms", ["--budget", "--budget-ms"], "--budget-ms"),
        ("vLLM", ["vllm", "sglang"], "vllm"),
        ("serve", ["search", "new"], None),
        ("h100", ["h100_sxm", "l40s"], "h100_sxm"),
    ],
)
def test_only_a_near_value_is_suggested(given, allowed, meant):
    assert did_you_mean(given, allowed) == (f" (did you mean {meant!r}?)" if meant else "")


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
