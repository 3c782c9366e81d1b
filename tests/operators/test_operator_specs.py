"""What operators state without torch: sizes and kernel calls agree with each other."""

import ast
import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from cases import cases
from offenders import every
from package_sources import trees

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.operators import OPERATORS
from flashnas.operators.parts import Rotary
from flashnas.operators.spec import largest_divisor, mean_context, scaled_dim

HIDDEN = 2048
ROOT = Path(__file__).parents[2]
VARIANTS = [cls() for cls in OPERATORS.values()] + list(
    parse_operators(
        "a(heads=32,kv_heads=8,head_dim=64,qk_norm=true,qkv_bias=true) swa(window=7)"
        " m(expand=1,state=8,dt_rank=7,bias=true,conv_bias=false) m2(expand=1,groups=2,state=64)"
        " gd(k_heads=4,expand_v=2) r7(head_dim=128,gate_rank=7) kda(heads=32,gate_rank=64)"
        " moe(experts=64,active=8,intermediate=128,shared=50,shared_gate=true)"
        " f(intermediate=100) f(relu2=true,bias=true)"
        " a(out_gate=true,out_bias=true,qkv_bias=true,rope_share=0.25) a(rope_share=0)"
        " m2(heads=10,head_dim=80,groups=2,bias=true,conv_bias=false,dt_min=0.001)"
    )
)


def test_short_names_and_modules_are_unique():
    assert all(cls.kind == kind for kind, cls in OPERATORS.items())
    with pytest.raises(
        OperatorError, match=f"operator must be one of {', '.join(OPERATORS)}; got 'D'"
    ):
        OPERATORS["D"]


def test_rooms_ask_a_specification_and_not_for_its_name():
    """`spec.kind == "m2"` would leave out the operators of others. Published trainings name them."""
    wrong = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and path.parts[0] != "loss":
                sides = [node.left, *node.comparators]
                asks = any(
                    isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides
                )
                named = {getattr(part, "value", 0) for side in sides for part in ast.walk(side)}
                if asks and named & set(OPERATORS):
                    wrong.append(f"{path}:{node.lineno}")
    assert not wrong


@every(spec=VARIANTS, least_dim=(2, 16, 64, 128))
def test_heads_keep_the_least_size_and_one_network_has_one_proxy(spec, least_dim):
    """Heads and states never grow; written-out options give the network that defaults give."""
    for factor in (8, 16, 64):
        small = spec.scaled(HIDDEN, factor, least_dim)
        full, shrunk = spec.resolved(HIDDEN), small.resolved(HIDDEN // factor)
        assert full.scaled(HIDDEN, factor, least_dim).resolved(HIDDEN // factor) == shrunk
        for name in ("head_dim", "ssm_head_dim", "state", "window"):
            if size := getattr(shrunk, name, 0):
                most = getattr(full, name)
                assert size <= most
                # the width has room for such a head
                if name != "ssm_head_dim" and HIDDEN // factor % 64 == 0:
                    floor = least_dim // 2 if name == "state" else least_dim
                    assert size >= min(floor, most, HIDDEN // factor)
        if spec.kind == "kda" and full.gate_rank == full.head_dim:  # as fla, in a proxy, too
            assert shrunk.gate_rank == shrunk.head_dim
        if factor == 8:
            assert small.params(HIDDEN // factor) < spec.params(HIDDEN)


def test_heads_of_fewer_than_two_channels_are_refused():
    with pytest.raises(ArchitectureError, match="must keep a size of at least 2; got 1"):
        Architecture.parse("2048: a f").scaled(128, 1)


def test_mean_context_is_the_mean():
    assert [scaled_dim(128, factor) for factor in (1, 2, 16)] + [scaled_dim(8, 4)] == [
        128,
        64,
        16,
        8,
    ]
    for tokens in (1, 5, 9, 30):
        for window in (0, 1, 5, 9):
            seen = [min(t, window or t) for t in range(1, tokens + 1)]
            assert mean_context(tokens, window) == pytest.approx(sum(seen) / tokens)


def test_recorded_hashes_are_those_of_the_recorded_notations():
    with open(ROOT / "tests" / "data" / "recorded_hashes.csv", newline="") as file:
        found = {row["notation"]: row["hash"] for row in csv.DictReader(file)}
    assert len(found) == 24
    assert {notation: Architecture.parse(notation).hash for notation in found} == found


@every(case=cases("operators", "equal_options"))
def test_hashes_of_options_that_build_the_same_network_are_equal(case):
    one, other, same = case
    assert (
        Architecture.parse(f"512: {one}").hash == Architecture.parse(f"512: {other}").hash
    ) == same


@every(case=cases("operators", "rope_options"))
def test_rope_options_are_dropped_exactly_where_no_frequency_changes(case):
    theta, share, original = case
    spec = OPERATORS["a"](
        rope_theta=theta, rope_share=share, rope_factor=8.0, rope_original=original
    )
    full = spec.resolved(512)
    given, kept = (
        Rotary(full.rotary_dim, s.rope_theta, s.rope_factor, s.rope_original).frequencies()
        for s in (spec, full)
    )
    assert torch.equal(given, kept)
    if full.rope_original:  # kept options have an effect of their own
        for other in (
            dataclasses.replace(full, rope_original=0),
            dataclasses.replace(full, rope_factor=1.0),
        ):
            assert not torch.equal(
                kept,
                Rotary(
                    full.rotary_dim, other.rope_theta, other.rope_factor, other.rope_original
                ).frequencies(),
            )


# -- the default number of heads -------------------------------------------------------------------


def test_default_heads_of_common_widths():
    """As they always were where the key heads did not fall: 1792 had (14, 2), and 2304 had (18,
    3).
    """
    widths = (1024, 1280, 1536, 1792, 2048, 2304, 2560, 4096)
    resolved = [OPERATORS["a"]().resolved(width) for width in widths]
    found = [(spec.heads, spec.kv_heads) for spec in resolved]
    assert found == [(8, 2), (10, 2), (12, 3), (12, 3), (16, 4), (16, 4), (20, 5), (32, 8)]
    for given, heads in (
        ({"heads": 14}, (14, 2)),
        ({"kv_heads": 7}, (14, 7)),
    ):  # what is given stays
        spec = OPERATORS["a"](**given).resolved(1792)
        assert (spec.heads, spec.kv_heads) == heads


def test_the_largest_divisor_is_found():
    for size in range(60):
        for most in range(1, 70):
            assert largest_divisor(size, most) == max(
                (d for d in range(1, min(size, most) + 1) if size % d == 0), default=1
            )


def test_a_share_of_rotated_channels_must_be_even_and_at_most_one():
    with pytest.raises(
        OperatorError, match="rope_share x head_dim must be even for rotary positions; got 3"
    ):
        OPERATORS["a"](head_dim=12, rope_share=0.25).resolved(48)
    with pytest.raises(OperatorError, match="rope_share must be at most 1"):
        OPERATORS["a"](rope_share=1.5).resolved(512)
