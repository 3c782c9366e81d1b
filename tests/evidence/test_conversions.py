"""Published conversions of pretrained models."""

from collections import Counter

from flashnas.api.evidence import evidence
from flashnas.evidence.conversions import conversions, gains


def test_every_group_compares_layouts_and_has_a_source():
    groups = conversions()
    assert sum(len(group["values"]) for group in groups) == 83
    assert all(group["source"] and len(group["values"]) > 1 for group in groups)
    assert Counter(group["publication"] for group in groups).keys() == {
        "2601.22156",
        "2512.20569",
        "linswap",
    }


def test_selectors_are_compared_with_even_spacing_of_the_same_group():
    halo = [group for group in conversions() if group["metric"] == "niah_256k"]
    # HALO 74.3, PostNAS 56.2 and KL-LS 44.3 against 50.9 of the best, 74.3
    expected = [(value - 50.9) / 74.3 for value in (74.3, 56.2, 44.3)]
    assert [round(gain, 6) for gain in gains(halo)] == [round(value, 6) for value in expected]


def test_the_command_says_what_they_show_and_what_not():
    found = evidence(conversions=True)
    assert found.to_dict()["conversions"] == conversions()
    assert "a selector is better than even spacing in 22 of 28" in str(found)
    assert "they do not show: error bars" in str(found)
    assert "conversions" not in evidence().to_dict()
