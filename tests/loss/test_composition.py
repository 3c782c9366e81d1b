"""What the model sees of a stack: shares, second families, attention at an edge, sizes of
experts.
"""

import numpy as np
import pytest
from cases import cases
from offenders import every

from flashnas.architecture import Architecture, parse_operators
from flashnas.loss.composition import FEATURES, SILENT, outside_support
from flashnas.loss.experts import EXPERT_SILENT_SDS, outside_of_experts
from flashnas.loss.load import loss_model
from flashnas.loss.mix import RARE, body_sizes, mix_of, stacks
from flashnas.observations.losses import full_network, full_width
from flashnas.operators import OPERATORS


def mix(text, **options):
    return mix_of(stacks([parse_operators(text)]), **options)


def test_many_mixes_are_those_of_each():
    texts = ("12x(a f)", "m2 f a f 10x(m2 f)", "6x(kda f) swa f", "12x(f)", "12x(a f)")
    together = mix_of(stacks(list(map(parse_operators, texts))))
    for name, column in vars(together).items():
        alone = np.concatenate([getattr(mix(text), name) for text in texts])
        np.testing.assert_array_equal(column, alone)


def test_a_few_attention_layers_in_twelve_are_a_mix_that_was_tried():
    """Shares of counts that are no binary fractions leave nothing that nobody tried."""
    for attention, others in ((1, 11), (2, 21), (1, 35)):
        found = mix(f"{others}x(m2 f) {attention}x(a f)")
        assert found.new_mix.tolist() == [0]


@every(case=cases("loss", "mixes"))
def test_a_mix_by_hand(case):
    text, name, expected = case
    assert getattr(mix(text), name)[0] == pytest.approx(expected)


def test_shares_sum_to_one():
    for text in ("12x(a f)", "4x(m2 f d f a f)", "12x(swa f)"):
        assert mix(text).shares.sum() == pytest.approx(1)
    # Kimi delta attention counts as a gated delta rule by a part of it
    assert np.square(mix("6x(kda f) 6x(m f)").shares).sum() == pytest.approx(0.5)


def test_the_window_of_a_publication_that_does_not_state_it_is_unknown():
    assert mix("12x(swa f)").window > 0
    assert mix("12x(swa f)", published=True).window == 0


def test_words_of_an_operator_that_nobody_has_trained_change_nothing():
    """Only operators that publications have count as attention, whatever others call themselves."""
    sparse, state = (
        type("Other", (OPERATORS["a"],), {"kind": "other_kind", "family": family})
        for family in ("attention", "state space")
    )
    lists = [(cls(), *parse_operators("6x(m2 f)")) for cls in (sparse, state)]
    one, other = (vars(mix_of(stacks([each]))) for each in lists)
    np.testing.assert_equal(one, other)
    networks = [
        Architecture(hidden=512, operators=(*parse_operators("moe"), cls()))
        for cls in (sparse, state)
    ]
    said = [outside_of_experts(network, 1e9, 5e8) for network in networks]
    assert said[0] == said[1]


def test_the_share_of_feed_forward_layers_is_that_of_a_token():
    lists = [parse_operators("12x(a moe)"), parse_operators("12x(a f)")]
    (total, active, ffn), plain = body_sizes(stacks(lists, 1024))
    assert active < total
    assert plain[0] == plain[1] == pytest.approx(active, rel=1e-2)
    assert plain[2] == pytest.approx(ffn, rel=1e-2)


def test_a_stack_that_publications_have_has_no_silent_column():
    def silent(text, tokens):
        table = loss_model().table([Architecture.parse(text)], tokens)
        return dict(zip(SILENT, table.x[0, len(FEATURES) :], strict=True))

    assert not any(silent("2048: 2x(5x(m2 f) a f)", 1e11).values())
    far = silent("16384: 4x(r7 f f f)", 1e13)
    experts = {*EXPERT_SILENT_SDS}
    normed = {"qk_norm_unknown", "qk_norm_own"}
    assert {name for name, value in far.items() if value} == {*SILENT} - {
        "bare",
        "new_mix",
        "small",
    } - normed - experts
    toy = silent("256: 4x(a(heads=2) f)", 1e6)
    assert {name for name, value in toy.items() if value} == {"small", "length"}
    few = silent("2048: 3x(3x(gd f) a(qk_norm=true) f)", 1e11)
    assert {name for name, value in few.items() if value} == {"qk_norm_own"}


# -- outside of what publications have trained, in words -------------------------------------------


@every(case=cases("loss", "outside_of_publications"))
def test_what_lies_outside(case):
    text, tokens, words = case
    found = outside_support(Architecture.parse(text), tokens)
    if words is None:
        assert found == []
    else:
        assert any(words in each for each in found), found


def test_nearly_all_published_networks_lie_inside(shipped):
    outside = []
    for row in shipped:
        width = max(256, round(full_width(row) / 256) * 256)
        lone = any(spec.kind in RARE for spec in row.specs)
        if outside_support(full_network(row, width), row.tokens) and not lone:
            outside.append(row.operators)
    assert len(outside) < 0.12 * len(shipped), outside
