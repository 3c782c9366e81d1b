"""Architecture: notation, identity, sizes. Sizes are held against published ones and sums written
out by hand.
"""

import json
import re
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import SPECS
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture, is_notation, parse_operators
from flashnas.architecture.source import presets
from flashnas.base.errors import FlashnasError
from flashnas.operators import OPERATORS

HEADS = {"head_dim": st.sampled_from([32, 64]), "heads": st.sampled_from([0, 4])}
ATTENTION = {**HEADS, "kv_heads": st.sampled_from([0, 1, 4]), "qk_norm": st.booleans()}
OPTIONS = {  # values that fit every multiple of 128; of an operator without, its layer cases
    "a": {**ATTENTION, "rope_theta": st.sampled_from([1e4, 500000.0, 1e7, 1234.5])},
    "swa": {**ATTENTION, "window": st.integers(1, 4096)},
    "m2": {"expand": st.sampled_from([1, 2]), "state": st.integers(1, 200)},
    "gla": {"gate_rank": st.integers(1, 32)},
    "d": {"conv_size": st.integers(1, 5)},
    "gd": {"k_heads": st.integers(0, 5), "expand_v": st.integers(1, 3)},
    "r7": {"gate_rank": st.integers(0, 99), "decay_rank": st.just(8)},
    "kda": {**HEADS, "gate_rank": st.integers(0, 50)},
    "m": {"state": st.integers(1, 50), "dt_rank": st.integers(0, 20), "bias": st.booleans()},
    "conv": {"conv_size": st.integers(2, 5)},
    "h": {**ATTENTION, "window": st.integers(0, 40), "ssm_head_dim": st.sampled_from([32, 64])},
    "f": {"intermediate": st.integers(0, 10000)},
    "moe": {
        "experts": st.integers(3, 9),
        "shared": st.integers(0, 500),
        "shared_gate": st.booleans(),
    },
}


@st.composite
def operators(draw):
    kind = draw(st.sampled_from(sorted(OPERATORS)))
    if kind not in OPTIONS:
        return draw(st.sampled_from([spec for spec in SPECS.values() if spec.kind == kind]))
    options = draw(st.fixed_dictionaries({}, optional=OPTIONS[kind]))
    if options.get("heads") == 0 or "heads" not in options:
        options.pop("kv_heads", None)  # need not divide hidden / head_dim
    return OPERATORS[kind].from_options(options)


@st.composite
def architectures(draw):
    return Architecture(
        hidden=128 * draw(st.integers(1, 8)),
        vocab=draw(st.sampled_from([131072, 512, 2])),
        operators=tuple(draw(st.lists(operators(), min_size=1, max_size=6))),
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
    assert explicit.decode_flops(77) == architecture.decode_flops(77)
    assert explicit.cache_bytes(77) == architecture.cache_bytes(77)


@settings(max_examples=40, deadline=None)
@given(architectures(), architectures())
def test_hashes_are_equal_exactly_for_equal_networks(one, other):
    assert (one.hash == other.hash) == (one.canonical() == other.canonical())


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


@every(
    case=[
        (
            "d f",
            "architecture must read 'WIDTH: OPERATORS', such as '2048: 3x(d f m2 f)'; got 'd f'",
        ),
        ("9" * 5000 + ": d", "architecture must read 'WIDTH: OPERATORS'"),
        ("\uff16\uff14: d", "architecture must read 'WIDTH: OPERATORS'"),
        ("64: d(heads=1_0)", "operator 'd': heads must be a number, true or false; got '1_0'"),
        ("64: moe(experts=5000)", "operator 'moe': experts must be at most 4096; got 5000"),
        ("0: d", "architecture: hidden must be a whole number of at least 1; got 0"),
        ("128:", "architecture: operators must not be empty"),
        (
            "128(metta=1): d",
            "header has no option 'metta' (did you mean 'meta'?); allowed: vocab, tied, meta",
        ),
        ("128(tied=1): d", "architecture: tied must be true or false; got 1"),
        (
            "1600000000000000: a",
            "architecture: hidden must be a whole number of at most 1048576; got 1600000000000000",
        ),
        (
            "128(meta=0.5): d",
            "architecture: meta_tokens must be a whole number of at least 0; got 0.5",
        ),
        (
            "128: gl",
            f"operator must be one of {', '.join(OPERATORS)}; got 'gl' (did you mean 'gla'?)",
        ),
        ("128: 2x(d", "operators: '(' without its ')' in '2x(d'"),
        ("128: 0x(d)", "operators: a repeat must be at least 1; got 0"),
        ("128: 4097x(d)", "operators: at most 4096; got 4097 x 1"),
        ("128: 99x(99x(d))", "operators: at most 4096; got 99 x 99"),
        (
            "128: d, f",
            "operators: cannot read ', f'; write them apart by spaces, repeats as 3x(d f)",
        ),
        ("128: d(head_dim)", "operator 'd': options must read key=value; got 'head_dim'"),
        (
            "128: d(head_dim=big)",
            "operator 'd': head_dim must be a number, true or false; got 'big'",
        ),
        ("128: d(head_dim=64,head_dim=64)", "operator 'd': duplicate option 'head_dim'"),
        (
            "128: d(heads=2)",
            "operator 'd' has no option 'heads' (did you mean 'head_dim'?); allowed: head_dim,"
            " conv_size",
        ),
        ("128: d(head_dim=0)", "operator 'd': head_dim must be at least 1; got 0"),
        ("128: d(head_dim=96)", "operator 'd': head_dim 96 must divide the hidden size; got 128"),
        (
            "128: a(rope_theta=nan)",
            "operator 'a': rope_theta must be at most 1000000000000; got nan",
        ),
        ("128: a(heads=3,kv_heads=2)", "operator 'a': kv_heads must divide heads 3; got 2"),
        (
            "128: a(heads=1,head_dim=3)",
            "operator 'a': head_dim must be even for rotary positions; got 3",
        ),
        ("128: m2(groups=3)", "operator 'm2': groups must divide the 4 heads; got 3"),
        ("128: gla(head_dim=1)", "operator 'gla': head_dim must be at least 2; got 1"),
        (
            "130: gla(head_dim=5)",
            "operator 'gla': 2 (key heads are half of head_dim) 2 must divide",
        ),
    ]
)
def test_bad_notation_gets_one_line(case):
    text, message = case
    line = one_line(FlashnasError, Architecture.parse, text)
    assert line.startswith(message), line


@every(
    case=[
        ({"hidden": 128}, "architecture needs the key 'operators'"),
        ({"operators": ["d"]}, "architecture needs the key 'hidden'"),
        (
            {"hidden": 128, "operator": ["d"]},
            "architecture has no key 'operator' (did you mean 'operators'?)",
        ),
        (
            {"hidden": 128, "operators": [1]},
            "architecture.operators must be a list of operators; got [1]",
        ),
        (
            {"hidden": "128", "operators": ["d"]},
            "architecture: hidden must be a whole number of at least 1; got '128'",
        ),
        (
            {"hidden": 128, "operators": ["d"], "tied": 1},
            "architecture: tied must be true or false; got 1",
        ),
    ]
)
def test_bad_mapping_gets_one_line(case):
    data, message = case
    with pytest.raises(FlashnasError, match=re.escape(message)):
        Architecture.from_dict(data)


# -- sizes -----------------------------------------------------------------------------------------

# parameters of the published checkpoints; AMD-OLMo has norms without weights: 33 x 2048 fewer than
# here
PUBLISHED = {
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "SmolLM2-1.7B": 1_711_376_384,
    "H2O-Danube3-4B": 3_961_839_360,
    "LFM2-350M": 354_483_968,
    "LFM2-700M": 742_489_344,
    "LFM2-1.2B": 1_170_340_608,
    "LFM2-2.6B": 2_569_272_320,
    "AMD-OLMo-1B": 1_176_764_416 + 33 * 2048,
}


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
    assert architecture.decode_flops(context) == pytest.approx(
        2 * hidden * vocab + sum(spec.flops(hidden, context) for spec in specs)
    )
    # meta tokens are cached, too
    assert architecture.cache_bytes(context, 4) == sum(
        spec.cache_bytes(hidden, context + meta, 4) for spec in specs
    )


@settings(max_examples=40, deadline=None)
@given(architectures(), st.integers(1, 40))
def test_prefill_is_the_sum_over_its_tokens_with_one_head(architecture, tokens):
    head = 2 * architecture.hidden * architecture.vocab
    total = tokens + architecture.meta_tokens
    by_token = sum(architecture.decode_flops(t) - head for t in range(1, total + 1)) + head
    assert architecture.prefill_flops(tokens) == pytest.approx(by_token, rel=1e-12)


# -- proxies ---------------------------------------------------------------------------------------


@every(name=sorted(presets()), factor=(1, 2, 3, 100))
def test_a_shallower_network_has_every_so_many_operator_of_each_kind(name, factor):
    architecture = presets()[name]
    found = architecture.shallower(factor)
    before, after = (
        Counter(spec.kind for spec in network.operators) for network in (architecture, found)
    )
    assert after == {kind: -(-count // factor) for kind, count in before.items()}
    rest = iter(architecture.operators)
    assert all(spec in rest for spec in found.operators)  # in the same order
    assert found.hidden == architecture.hidden
    assert factor > 1 or found == architecture


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
