"""Folding of notations, checked by parsing them back."""

from hypothesis import given, settings
from hypothesis import strategies as st
from offenders import every

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed, fold, mixers_by_use


@every(
    case=[
        ("d f d f d f", "3x(d f)"),
        ("d f", "d f"),
        ("a a", "a a"),
        ("d f m2 f a d f m2 f a", "2x(d f m2 f a)"),
        ("d f d f d f m2 d f d f d f m2", "2x(3x(d f) m2)"),
    ]
)
def test_fold(case):
    words, expected = case
    assert fold(tuple(words.split())) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["d", "f", "m2", "a(heads=8)"]), min_size=1, max_size=24))
def test_a_folded_notation_parses_to_the_same_architecture(operators):
    notation = f"2048(meta=256): {' '.join(operators)}"
    short = compressed(notation)
    assert Architecture.parse(short) == Architecture.parse(notation)
    assert len(short) <= len(notation)


def test_very_deep_and_unreadable_notations_come_back():
    deep = "1024: " + " ".join(["d"] * 300)
    assert compressed(deep) == deep
    assert compressed("<script>") == "<script>"
    assert mixers_by_use("2048: nope") == ()


def test_mixers_by_use_leaves_out_feed_forward_and_counts():
    assert mixers_by_use("2048: d f m2 f m2 f f f") == ("m2", "d")
    assert mixers_by_use("2048: m2 d f") == ("m2", "d")  # a tie: the earlier first
    assert mixers_by_use("2048: f f") == ()
