"""What lies outside of what publications have trained is said in words, and nothing of what they have trained is."""

import pytest

from flashnas.architecture import Architecture
from flashnas.evidence.proxies import full_network, full_width
from flashnas.evidence.support import outside_support


@pytest.mark.parametrize(("text", "tokens", "words"), [
    ("2048: 12x(a f)", 1e11, None),
    ("2048: 2x(5x(m2 f) a f)", 1e11, None),
    ("2048: 6x(m2 f f f)", 1e11, "75% of its operators are feed-forward layers; publications have about half"),
    ("2048: 24x(d)", 1e11, "0% of its operators are feed-forward layers; with these mixers publications have at least"),
    ("2048: 12x(r7 f)", 1e11, "100% of its mixers are of kinds that at most one publication has trained"),
    ("2048: 10x(m2 f) d f d f", 1e11, "its second family of mixers has a share at which publications have not tried"),
    ("4096: a f", 1e11, "times its depth; publications have 2 to 270"),
    ("8192: 40x(a f)", 1e11, "parameters without embeddings; publications have 20M to 3B"),
    ("2048: 12x(a f)", 1e13, "10T training tokens; publications have 7B to 350B"),
    ("2048: 12x(a f)", 1e9, "1B training tokens; publications have 7B to 350B"),
    ("2048: 12x(a f)", None, None),
])
def test_what_lies_outside(text, tokens, words):
    found = outside_support(Architecture.parse(text), tokens)
    if words is None:
        assert found == []
    else:
        assert any(words in each for each in found), found


def test_nearly_all_published_networks_lie_inside(shipped):
    outside = []
    for row in shipped:
        width = max(256, round(full_width(row) / 256) * 256)
        if outside_support(full_network(row, width), row.tokens):
            outside.append(row.operators)
    assert len(outside) < 0.12 * len(shipped), outside
