from collections import Counter

import pytest
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import BenchError
from flashnas.bench.plan import Given, balance, part_of, plan, read_networks
from flashnas.space import load_space
from flashnas.training.recipe import Recipe

RECIPE = Recipe(width_factor=16)
GIVEN = [Given("published:x", Architecture.parse("2048: 4x(d f)")),
         Given("published:x", Architecture.parse("1024: 4x(kda f)")),
         Given("published:y", Architecture.parse("2048(vocab=32000): 4x(d f)")),  # the same trained network
         Given("published:y", Architecture.parse("64: 2x(h(head_dim=16) f)"), 1),
         Given("published:z", Architecture.parse("2048: 6x(a f)"), proxy=Architecture.parse("60: 6x(a(head_dim=20))"))]


@pytest.fixture(scope="module")
def spaces():
    return [load_space("layerwise"), load_space("tiny")]


@pytest.fixture(scope="module")
def planned(spaces):
    return plan(GIVEN, spaces, RECIPE, vocab=4096, trainings=60)


def test_every_prefix_is_the_list_for_fewer_trainings(planned, spaces):
    assert len(planned) == 60
    for count in (1, 4, 23):
        assert plan(GIVEN, spaces, RECIPE, vocab=4096, trainings=count) == planned[:count]


def test_given_networks_come_first_and_each_network_is_trained_once_under_each_seed(planned):
    first = list(dict.fromkeys(item.proxy.hash for item in planned))[:4]
    assert first == [Recipe(width_factor=factor).proxy_of(given.proxy or given.architecture, 4096).hash
                     for given, factor in zip((GIVEN[0], GIVEN[1], *GIVEN[3:]), (16, 16, 1, 1), strict=True)]
    assert len({item.key for item in planned}) == len(planned)


def test_every_sixth_network_is_trained_under_three_seeds(planned):
    seeds = Counter(item.proxy.hash for item in planned)
    networks = list(seeds)
    assert [seeds[network] for network in networks[:-1]] == [
        3 if number % 6 == 0 else 1 for number in range(len(networks) - 1)]


def test_the_width_factor_of_a_space_counts(planned):
    factors = {(item.network.origin, item.recipe.width_factor) for item in planned}
    assert factors == {("published:x", 16), ("published:y", 1), ("published:z", 16), ("layerwise", 16), ("tiny", 1)}


def test_a_prefix_is_balanced(spaces):
    found = balance(plan([], spaces[:1], RECIPE, vocab=4096, trainings=32, seeds=1))
    assert set(found["mixer"]) == {spec.kind for spec in spaces[0].mixers}
    assert min(found["mixer"].values()) >= 0.6 * max(found["mixer"].values())
    assert set(found["width"]) == {str(hidden // 16) for hidden in spaces[0].hidden_sizes}
    assert max(found["width"].values()) <= 2 * min(found["width"].values())
    depths = list(map(int, found["depth"]))
    assert min(depths) <= 14
    assert max(depths) >= 28
    assert found["origin"] == {"layerwise": 32}


def test_parts_share_nothing_and_make_the_whole(planned):
    parts = [part_of(planned, part, 3) for part in (1, 2, 3)]
    assert [item for three in zip(*parts, strict=True) for item in three] == planned


def test_an_exhausted_space_ends_the_list(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text("template: layerwise\nmodel: {vocab: 512}\nwidths: [64]\nwidth_factor: 1\n"
                    "layers: {depth: [1, 2], choices: ['d(head_dim=16) f', 'a(head_dim=16)']}\n")
    found = plan([], [load_space(path)], RECIPE, vocab=300, trainings=100, seeds=1)
    assert len(found) == 2 + 4


def test_a_given_network_that_cannot_be_shrunk_is_one_line(spaces):
    with pytest.raises(BenchError, match=r"network '100: f' \(mine\) cannot be shrunk by the width factor 16"):
        plan([Given("mine", Architecture.parse("100: f"))], spaces, RECIPE, vocab=300, trainings=3)


def test_networks_are_read_from_a_table(tmp_path):
    path = tmp_path / "networks.csv"
    path.write_text('origin,architecture,width_factor,proxy\npublished:x,2048: d f,,60: d(head_dim=20) f\n'
                    'mine,"128(vocab=300,meta=2): a f",1,\n')
    assert read_networks(path) == [Given("published:x", Architecture.parse("2048: d f"),
                                         proxy=Architecture.parse("60: d(head_dim=20) f")),
                                   Given("mine", Architecture.parse("128(vocab=300,meta=2): a f"), 1)]


@every(case=[
    ("origin,notation\nx,64: a\n", ": column 'architecture' is missing"),
    ("origin,architecture\nx,64: q\n", ":2: operator must be one of"),
    ("origin,architecture\n,64: a\n", ":2: origin must say where the network is from"),
    ("origin,architecture,width_factor\nx,64: a,half\n", ":2: width_factor must be a whole number of at least 1"),
    ("origin,architecture\n", ": holds no network")])
def test_a_wrong_table_is_one_line_with_its_place(case, tmp_path):
    text, words = case
    path = tmp_path / "networks.csv"
    path.write_text(text)
    assert f"{path}{words}" in one_line(BenchError, read_networks, path)
