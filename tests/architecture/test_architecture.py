"""Architecture: notation, identity, sizes. Sizes are held against published ones and sums written
out by hand.
"""

import json
import re

import pytest
import yaml
from cases import cases, data_of
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import SPECS
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture, is_notation, parse_operators
from flashnas.architecture.source import presets
from flashnas.base.errors import FlashnasError
from flashnas.operators import OPERATORS

OPERATORS_OF = [
    *SPECS.values(),
    *(cls() for cls in OPERATORS.values()),
    *parse_operators("a(rope_theta=1234.5) a(rope_theta=1e7) swa(window=4096) m2(state=200)"),
]


@st.composite
def architectures(draw):
    return Architecture(
        hidden=128 * draw(st.integers(1, 8)),
        vocab=draw(st.sampled_from([131072, 512, 2])),
        operators=tuple(draw(st.lists(st.sampled_from(OPERATORS_OF), min_size=1, max_size=6))),
        tied=draw(st.booleans()),
        meta_tokens=draw(st.sampled_from([0, 1, 256])),
    )


# -- notation and identity -------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(architectures())
def test_round_trips(architecture):
    assert Architecture.parse(architecture.notation) == architecture
    assert Architecture.parse(str(architecture)) == architecture
    assert is_notation(architecture.notation)
    data = architecture.to_dict()
    for text in (json.loads(json.dumps(data)), yaml.safe_load(yaml.safe_dump(data))):
        assert Architecture.from_dict(text) == architecture


@settings(max_examples=40, deadline=None)
@given(architectures())
def test_explicit_options_build_the_same_network(architecture):
    explicit = architecture.canonical()
    assert explicit.canonical() == explicit
    assert explicit.hash == architecture.hash == Architecture.parse(explicit.notation).hash
    assert explicit.params == architecture.params
    assert explicit.flops_per_token(77) == architecture.flops_per_token(77)
    assert explicit.cache_bytes(77) == architecture.cache_bytes(77)


@every(
    change=[
        "2048: d f m2 f a",
        "1024: d f m2 a f",
        "2048(vocab=512): d f m2 a f",
        "2048(tied=false): d f m2 a f",
        "2048(meta=1): d f m2 a f",
        "2048: d(head_dim=64) f m2 a f",
        "2048: d f(intermediate=8) m2 a f",
        "2048: d f m2 swa f",
        "2048: d f m2 a(heads=8) f",
        "2048: d f m2 a(qk_norm=true) f",
        "2048: d f m2 a",
    ]
)
def test_every_change_of_the_network_changes_the_hash(change):
    assert Architecture.parse(change).hash != Architecture.parse("2048: d f m2 a f").hash


def test_repeats_nest_and_spaces_do_not_matter():
    flat = parse_operators("d f m2 m2 f d f m2 m2 f a")
    assert parse_operators("2x(d f 2x(m2) f) a") == flat
    assert parse_operators("  2x( d f  m2\tm2\nf ) a ") == flat
    assert Architecture.parse(" 128 ( vocab = 512 , meta = 3 ) : d ") == Architecture.parse(
        "128(vocab=512,meta=3): d"
    )


BAD = data_of("architecture/bad")


LONG = ["9" * 5000 + ": d", "architecture must read 'WIDTH: OPERATORS'"]


@every(case=[*BAD["notation"], LONG])
def test_bad_notation_gets_one_line(case):
    text, message = case
    line = one_line(FlashnasError, Architecture.parse, text)
    assert line.startswith(message.replace("{operators}", ", ".join(OPERATORS))), line


@every(case=BAD["mapping"])
def test_bad_mapping_gets_one_line(case):
    data, message = case
    with pytest.raises(FlashnasError, match=re.escape(message)):
        Architecture.from_dict(data)


# -- sizes -----------------------------------------------------------------------------------------

# parameters of the published checkpoints; AMD-OLMo has norms without weights: 33 x 2048 fewer than
# here
PUBLISHED = cases("architecture", "published_sizes")


def test_small_models_have_their_published_sizes():
    sizes = {
        name: architecture.params
        for name, architecture in presets().items()
        if "Nemotron" not in name
    }
    assert sizes == PUBLISHED
    for name, params in (
        ("Nemotron-Flash-1B", 0.964e9),
        ("Nemotron-Flash-3B", 2.747e9),
    ):  # of the paper
        assert presets()[name].params == pytest.approx(params, rel=0.002)


@settings(max_examples=40, deadline=None)
@given(architectures(), st.integers(1, 500))
def test_sizes_are_the_sums_over_the_operators(architecture, context):
    hidden, vocab, meta = architecture.hidden, architecture.vocab, architecture.meta_tokens
    tables = (1 if architecture.tied else 2) * vocab + meta + 1  # the last: the final norm
    specs = architecture.operators
    assert architecture.params == tables * hidden + sum(spec.params(hidden) for spec in specs)
    # meta tokens are cached, too
    assert architecture.cache_bytes(context, 4) == sum(
        spec.cache_bytes(hidden, context + meta, 4) for spec in specs
    )


@settings(max_examples=40, deadline=None)
@given(architectures(), st.integers(1, 40))
def test_flops_are_the_sum_over_the_tokens_of_a_text(architecture, tokens):
    head = 2 * architecture.hidden * architecture.vocab
    total = tokens + architecture.meta_tokens
    seen, specs = range(1, total + 1), architecture.operators
    by_token = sum(spec.flops(architecture.hidden, t) for t in seen for spec in specs)
    found = architecture.flops_per_token(tokens)
    assert found == pytest.approx(by_token / tokens + head, rel=1e-12)


# -- proxies ---------------------------------------------------------------------------------------


@every(name=sorted(presets()))
def test_a_proxy_keeps_the_operator_list(name):
    architecture = presets()[name]
    proxy = architecture.scaled(16)
    assert proxy.hidden * 16 == architecture.hidden
    assert [spec.kind for spec in proxy.operators] == [spec.kind for spec in architecture.operators]
    assert proxy.vocab == architecture.vocab
    body = architecture.params - architecture.vocab * architecture.hidden
    small = proxy.params - proxy.vocab * proxy.hidden
    assert (
        body / 16**2 < small * 1.05 < body / 16
    )  # matrices shrink by the square, short ones by less
    assert architecture.scaled(1) is architecture
    with pytest.raises(FlashnasError, match="width factor must divide the hidden size"):
        architecture.scaled(11)
