"""What the model sees of a stack: shares, second families, attention at an edge, sizes of experts."""

import numpy as np
import pytest

from flashnas.architecture import parse_operators
from flashnas.evidence.composition import (
    FEATURES,
    KINDS,
    SILENT,
    body_sizes,
    columns,
    effective,
    mix_of,
)


def mix(text, **options):
    return mix_of(tuple(parse_operators(text)), **options)


@pytest.mark.parametrize(("text", "name", "expected"), [
    ("12x(a f)", "mixed", 0.0),
    ("12x(a f)", "ffn_share", 0.5),
    ("2x(5x(m2 f) a f)", "mixed", 1.0),                 # a sixth is more than the share that counts fully
    ("11x(m2 f) a f", "mixed", (1 / 12) / 0.15),
    ("6x(gd f a f)", "gated_delta", 0.5),
    ("12x(kda f)", "gated_delta", 1.0),
    ("12x(kda f)", "rare", 1.0),
    ("12x(r7 f)", "rare", 1.0),
    ("12x(gd f)", "rare", 0.0),
    ("24x(m2)", "bare", 0.0),                           # has a channel mixer of its own
    ("24x(d)", "bare", 1.0),
    ("12x(swa(window=256) f)", "window", 1.0),
    ("12x(swa(window=2048) f)", "window", 0.0),
    ("5x(m2 f) a f 6x(m2 f)", "edge", 0.0),
    ("11x(m2 f) a f", "edge", pytest.approx((0.5 - 0.5 / 12 - 0.3) / 0.2)),
    ("11x(m2 f) a f", "new_mix", 0.0),                  # attention beside anything was tried
    ("11x(m2 f) d f", "new_mix", (1 / 12) / 0.15),      # a delta rule at a small share was not
    ("6x(m2 f d f)", "new_mix", 0.0),
])
def test_a_mix_by_hand(text, name, expected):
    assert getattr(mix(text), name) == pytest.approx(expected)


def test_shares_sum_to_one_and_a_hybrid_head_is_half_of_each():
    for text in ("12x(a f)", "4x(m2 f d f a f)", "6x(h f) 6x(m f)", "12x(swa f)"):
        assert sum(mix(text).shares) == pytest.approx(1)
    shares = dict(zip(KINDS, mix("12x(h f)").shares, strict=True))
    assert (shares["a"], shares["m2"]) == (0.5, 0.5)


def test_the_window_of_a_publication_that_does_not_state_it_is_unknown():
    assert mix("12x(swa f)").window > 0
    assert mix("12x(swa f)", published=True).window == 0


def test_order_away_from_the_edges_says_nothing():
    assert mix("m2 f m2 f a f m2 f d f m2 f a f m2 f m2 f") == mix("m2 f m2 f m2 f a f d f a f m2 f m2 f m2 f")


def test_experts_count_by_the_active_ones_and_by_all():
    total, active, ffn = body_sizes(tuple(parse_operators("12x(a moe)")), 1024)
    assert active < total
    assert effective(total, active) == pytest.approx(np.sqrt(total * active))
    plain = body_sizes(tuple(parse_operators("12x(a f)")), 1024)
    assert plain[0] == plain[1]
    assert 0 < plain[2] < ffn < 1


def test_a_stack_that_publications_have_has_no_silent_column():
    found = mix("2x(5x(m2 f) a f)")
    row = columns(found, law=2.5, params=1e9, active=1e9, ffn=0.6, aspect=3.6, tokens=1e11)
    assert len(row) == len(FEATURES) + len(SILENT)
    assert row[len(FEATURES):] == [0.0] * len(SILENT)
    far = dict(zip(SILENT, columns(mix("12x(r7 f f f)"), law=2.5, params=1e10, active=1e10, ffn=0.8, aspect=6.0,
                                   tokens=1e13)[len(FEATURES):], strict=True))
    assert all(far[name] > 0 for name in ("ffn_share", "rare", "aspect", "size", "tokens"))
    assert far["bare"] == far["new_mix"] == 0
