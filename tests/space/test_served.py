"""Networks of families that programs load: what a space of them holds, and its limits."""

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest
from cases import data_of
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import SpaceError
from flashnas.families.family import PROGRAMS, families, interval_of
from flashnas.families.programs import loading
from flashnas.space import load_space
from flashnas.space.served import NEAR_LAYERS, ServedGenotype, attention_places

RECURRENT = {
    "granite": "m2",
    "granite_moe": "m2",
    "nemotron_h": "m2",
    "qwen3_5": "gd",
    "lfm2": "conv",
}
# of published models: experts, active ones, and the widths of each and of the shared one over that of the network
PUBLISHED = {
    "granite_moe": {(64, 6, 1 / 3, 2 / 3), (72, 10, 768 / 4096, 1536 / 4096)},
    "qwen3_moe": {(128, 8, 768 / 2048, 0), (64, 8, 1024 / 2048, 0)},
}
SAMPLE = 200  # networks of each family


@pytest.fixture(scope="module")
def served():
    return load_space("served").restricted((1e8, 64e9), experts="any")


@pytest.fixture(scope="module")
def samples():
    """Of each family some genotypes with their networks."""
    found = {}
    for name in families():
        space, rng = load_space(name), np.random.default_rng(0)
        chosen = rng.choice(len(space.genotypes), min(SAMPLE, len(space.genotypes)), replace=False)
        genotypes = [space.genotypes[index] for index in sorted(chosen)]
        found[name] = [(genotype, *space.architectures(genotype)) for genotype in genotypes]
    return found


def mixers(network):
    return [spec for spec in network.operators if spec.mixes_tokens]


def test_the_default_space_holds_small_networks_without_experts(served):
    default = load_space("served")
    assert default.params == (1e8, 4e9)
    dense = [n for n in default.probes() if n.active_params == n.params]
    assert len(dense) == len(list(default.probes()))
    assert default.families == tuple(name for name in served.families if name not in PUBLISHED)
    only, both = (default.restricted(experts=experts) for experts in ("only", "any"))
    assert only.families == tuple(PUBLISHED)
    assert default.size() + only.size() == both.size()


def test_the_default_space_has_all_families_and_each_has_a_space_of_its_own(served):
    kinds = [{spec.kind for spec in mixers(network)} for network in served.probes()]
    assert set(map(frozenset, kinds)) == {
        *(frozenset({kind, "a"}) for kind in RECURRENT.values()),
        frozenset("a"),
    }
    assert served.count_networks() == served.size() == len(set(served.genotypes)) < 20_000
    assert list(served.enumerate()) == list(served.genotypes)
    for name in families():
        assert load_space(name).families == (name,)


@pytest.mark.parametrize("name", families())
def test_every_network_is_one_of_its_family_and_all_programs_of_the_family_load_it(name, samples):
    family = families()[name]
    programs = set(family.programs)
    few = {"ministral": {"vllm", "mlx", "transformers"}, "lfm2": set(PROGRAMS) - {"tensorrt-llm"}}
    assert programs == few.get(name, set(PROGRAMS))
    for number, (_, network) in enumerate(samples[name]):
        assert family.holds(network), family.format.problems(network)
        assert programs == set(family.loading(network))
        assert number % 10 or programs == set(loading(network))


@every(name=[*PUBLISHED])
def test_experts_are_those_of_published_models(name, samples):
    seen = set()
    for genotype, network in samples[name]:
        experts, width = network.operators[1], network.hidden
        (published,) = (
            shape for shape in PUBLISHED[name] if shape[:2] == (experts.experts, experts.active)
        )
        for size, ratio in ((experts.intermediate, published[2]), (experts.shared, published[3])):
            assert size % 64 == 0
            assert abs(size - ratio * width) <= 32
        assert genotype.layers % 2 == 0
        assert str(genotype).endswith(f", moe(experts={experts.experts},active={experts.active})")
        seen.add(published)
    assert seen == PUBLISHED[name]
    (tiny,) = load_space("granite_moe").architectures(ServedGenotype("granite_moe", 1536, 40, 10))
    assert (tiny.operators[1].intermediate, tiny.operators[1].shared) == (512, 1024)
    assert tiny.params == pytest.approx(6.9e9, rel=0.02)  # Granite-4.0-H-Tiny


@pytest.mark.parametrize("name", families())
def test_attention_stands_at_one_distance(name, samples):
    for genotype, network in samples[name]:
        distance, exact = interval_of(network.operators)
        attends = [n for n, spec in enumerate(mixers(network), 1) if spec.kind == "a"]
        last = name in ("ministral", "qwen3_5")
        assert attends == list(attention_places(genotype.layers, genotype.every, last))
        assert {spec.window_tokens for spec in mixers(network)} == {0, genotype.window}
        assert genotype.window in families()[name].search.windows
        assert distance
        if len(attends) > 1:
            assert distance == genotype.every
        if name == "qwen3_5":
            assert exact
            assert attends == list(range(genotype.every, genotype.layers + 1, genotype.every))


def test_places_of_attention_by_hand():
    assert list(attention_places(8, 4, last=True)) == [4, 8]
    assert list(attention_places(8, 4, last=False)) == [3, 7]
    assert list(attention_places(9, 3, last=False)) == [2, 5, 8]
    assert list(attention_places(7, 4, last=True)) == [4]
    assert list(attention_places(3, 1, last=False)) == [1, 2, 3]
    network = load_space("granite").decode(
        {"family": "granite", "hidden": 2048, "layers": 12, "every": 6}
    )
    assert str(network) == "granite 2048: 12 layers, attention 1 in 6"
    (built,) = load_space("granite").architectures(network)
    assert [n for n, spec in enumerate(mixers(built), 1) if spec.kind == "a"] == [4, 10]


def test_each_number_of_attention_layers_is_there_once(served):
    counts = defaultdict(list)
    for genotype in served.genotypes:
        last = families()[genotype.family].search.last
        places = attention_places(genotype.layers, genotype.every, last)
        counts[genotype.family, genotype.hidden, genotype.layers, genotype.ffn].append(len(places))
    assert all(len(found) == len(set(found)) for found in counts.values())


def test_unfit_parameters_decode_to_the_nearest_of_their_family(served):
    wished = {"family": "lfm2", "hidden": 2304, "layers": 20, "every": 12}
    found = served.decode(wished)
    assert found == ServedGenotype("lfm2", 2560, 20, 6)
    wished = {"family": "qwen3_moe", "hidden": 2048, "layers": 24, "every": 1, "ffn": 1}
    assert served.decode(wished) == ServedGenotype("qwen3_moe", 2048, 24, 1, 1)


def test_networks_are_found_again_and_others_are_not(served, samples):
    for name in served.families:
        genotype, network = samples[name][0]
        network = dataclasses.replace(network, vocab=served.model.vocab)
        if genotype in served.genotypes:
            assert served.locate(Architecture.parse(network.notation)) == genotype
            assert served.contains(network)
        assert not served.contains(dataclasses.replace(network, vocab=1000))
        assert not served.contains(dataclasses.replace(network, tied=not network.tied))
        longer = network.operators + network.operators[:1]
        assert served.locate(dataclasses.replace(network, operators=longer)) is None
    (usual,) = served.architectures(ServedGenotype("granite", 2048, 12, 6))
    assert served.contains(usual)
    early = dataclasses.replace(
        usual, operators=usual.operators[6:8] + usual.operators[8:] + usual.operators[:6]
    )
    assert interval_of(early.operators)[0] == 6
    assert served.locate(early) is None, "attention is the first of each six layers"
    assert served.locate(Architecture.parse("2048: 12x(d f)")) is None


def test_parameters_and_vocabulary_bound_the_networks(served):
    small = served.restricted((3e8, 5e8))
    assert set(small.genotypes) == {
        genotype for genotype in served.genotypes if 3e8 <= served.sizes[genotype] <= 5e8
    }
    assert served.restricted((0, 2e9)).params == (1e8, 2e9), "an upper limit alone"
    assert served.restricted((0, 6e7)).params == (0, 6e7)
    low, high = small.param_range
    assert 3e8 <= low < high <= 5e8
    fewer = small.with_vocab(32_000)
    for genotype in fewer.genotypes[::50]:
        (network,) = fewer.architectures(genotype)
        assert (network.vocab, 3e8 <= network.params <= 5e8) == (32_000, True)
    assert len({space.hash for space in (served, small, fewer)}) == 3
    assert served.restricted(families=["granite", "lfm2"]).families == ("granite", "lfm2")
    message = one_line(SpaceError, served.restricted, (1e12, 1e13))
    families = "granite, nemotron_h, qwen3_5, lfm2, qwen3, granite_moe, qwen3_moe"
    assert message.endswith(f"no network of {families} has params 1T..10T, experts any")


def test_a_mutant_differs_in_one_property(served):
    rng = np.random.default_rng(0)
    genotype, seen = served.sample(rng), set()
    for _ in range(60):
        mutant = served.mutate(genotype, rng)
        changed = {
            name
            for name, value in served.encode(mutant).items()
            if value != served.encode(genotype)[name]
        }
        assert len(changed) == 1
        assert abs(mutant.layers - genotype.layers) <= NEAR_LAYERS
        genotype, seen = mutant, seen | changed
    assert seen == {"family", "hidden", "layers", "every", "ffn"}
    pure = served.restricted(families=["llama"])
    counts = Counter(pure.sizes.values())
    lone = next(params for params, count in counts.items() if count == 1)
    alone = pure.restricted((lone, lone))
    message = one_line(SpaceError, alone.mutate, alone.genotypes[0], rng)
    assert message.endswith("the space holds one network only; nothing to mutate")


# -- files -----------------------------------------------------------------------------------------

BAD = data_of("space/bad")["served"]
GOOD = """\
template: served
families: [granite, qwen3_5]
params: 0.5B..1B
vocab: 32000
experts: none
layers: [12, 16]
"""


def write(folder, text):
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_a_file_bounds_families_parameters_and_layers(tmp_path):
    space = load_space(write(tmp_path, GOOD))
    assert (space.families, space.model.vocab, space.name) == (("granite", "qwen3_5"), 32_000, "x")
    assert {genotype.family for genotype in space.genotypes} == {"granite", "qwen3_5"}
    assert {genotype.layers for genotype in space.genotypes} == {12, 13, 14, 15, 16}
    (network,) = space.architectures(space.genotypes[0])
    assert (network.vocab, 5e8 <= network.params <= 1e9) == (32_000, True)
    least = load_space(write(tmp_path, "template: served\nfamilies: [llama]\n"))
    assert least.genotypes == load_space("served").restricted(families=["llama"]).genotypes


@every(case=BAD)
def test_a_bad_file_gets_one_line(tmp_path, case):
    old, new, message = case
    path = write(tmp_path, GOOD.replace(old, new, 1))
    assert one_line(SpaceError, load_space, path).startswith(f"{path}:{message}")


@pytest.mark.parametrize("params", [(5e6, 4e7), (2e7, 3e8), (1e8, 4e9)])
def test_short_trainings_shrink_all_widths(served, params):
    space = served.with_vocab(8_000).restricted(params)
    factor = space.width_factor
    assert all(hidden % factor == 0 <= hidden / factor - 16 for hidden in space.hidden_sizes)
