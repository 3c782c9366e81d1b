"""The search that trains nothing: its front, and that a seed fixes it."""

import numpy as np
import pytest
from problems import problem_of

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.families.programs import loading
from flashnas.study.explore import (
    ALIKE_NATS,
    Explored,
    evenly_spread,
    explore,
)

FLOOR = -0.05


def explored(seed=0, min_recall=FLOOR):
    problem = problem_of()
    return explore(problem.space, problem.fitter, problem.scorer, seed=seed, min_recall=min_recall)


@pytest.fixture(scope="module")
def expected():
    return explored()


def made_up(values, latencies, operators=None):
    """Networks that differ by their figures alone."""
    networks = [Architecture.parse(f"512: {text}") for text in operators or ["m2 f"] * len(values)]
    return Explored(
        list(range(len(values))),
        networks,
        {"value": np.array(values, float), "latency_ms": np.array(latencies, float)},
        ("full_loss", "latency_ms"),
        len(values),
    )


def test_the_seed_alone_fixes_what_is_tried(expected):
    again, other = explored(), explored(seed=1)
    assert again.genotypes == expected.genotypes
    assert [network.hash for network in again.networks] == [
        network.hash for network in expected.networks
    ]
    for name in ("latency_ms", "value"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    assert other.genotypes != expected.genotypes


def test_all_is_within_the_budget_and_scored_as_the_scorer_does(expected):
    problem = problem_of()
    assert 300 < len(expected.networks) <= 850
    assert (expected.latency_ms <= 1500.0).all()
    latencies = problem.costs.latencies(expected.networks[:20])
    assert latencies == pytest.approx(expected.latency_ms[:20])
    scorer = problem.scorer
    np.testing.assert_allclose(expected.value, scorer.values(expected.networks), atol=1e-9)
    assert (scorer.recalls(expected.networks) >= FLOOR).all()


def test_evolution_is_better_than_as_many_random_networks(monkeypatch):
    monkeypatch.setattr("flashnas.study.explore.MAX_TRIED", 900)
    problem = problem_of("layerwise", 2000.0)
    found = explore(problem.space, problem.fitter, problem.scorer, seed=0, min_recall=FLOOR)
    rng = np.random.default_rng(0)
    genotypes = [problem.space.sample(rng) for _ in found.networks]
    fitted = [problem.fitter.fit_width(genotype)[0] for genotype in genotypes]
    networks = [network for network in fitted if network is not None]
    values, recalls = problem.scorer.values(networks), problem.scorer.recalls(networks)
    best = found.best
    assert found.value[best] < values[recalls >= FLOOR].min() - 0.005
    operators = found.networks[best].operators
    assert operators == evenly_spread(operators), "evidence knows nothing of their order"


def test_a_higher_floor_leaves_networks_out_and_one_that_nothing_reaches_is_one_line():
    scorer = problem_of().scorer
    networks = explored(min_recall=-0.02).networks
    assert (scorer.recalls(networks) >= -0.02).all()
    assert (scorer.recalls(explored(min_recall=-1).networks) < FLOOR).any()
    with pytest.raises(BudgetError, match=r"has an expected recall of 0\.9 or more"):
        explored(min_recall=0.9)


def test_a_small_space_is_enumerated_and_its_best_is_that_of_all(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "template: layerwise\nwidths: [1024, 1536, 2048]\n"
        "layers: {depth: [2, 6], choices: [m2 f, a f, d f]}\n"
    )
    problem = problem_of(str(path), 700.0)
    fitter, scorer = problem.fitter, problem.scorer
    found = explore(problem.space, fitter, scorer, seed=0, min_recall=FLOOR)
    genotypes = list(problem.space.enumerate())
    assert found.tried == len(genotypes) == len(set(genotypes)) == sum(3**n for n in range(2, 7))
    fitted = [fitter.fit_width(genotype)[0] for genotype in genotypes]
    networks = [network for network in fitted if network is not None]
    values = scorer.values(networks)[scorer.recalls(networks) >= FLOOR]
    assert len(values) == len(found.networks)
    assert found.value[found.best] == pytest.approx(values.min(), abs=1e-9)


def test_the_simplest_network_within_the_tolerance_is_recommended():
    granite = "a(head_dim=64,rope_share=0)"
    operators = [
        "m2 f d f a f",  # two recurrences
        f"m2 f {granite} f",
        f"m2(groups=8) f {granite} f",
        f"m2 f {granite} f m2 f {granite} f",
        f"m2 f {granite} f",
    ]
    tied = 0.9 * ALIKE_NATS
    networks = made_up(
        [2.0, 2 + tied, 2 + tied, 2.0, 2 + 1.1 * ALIKE_NATS], [5, 4, 3, 2, 1], operators
    )
    granite, unloaded = (len(loading(networks.networks[index])) for index in (1, 2))
    assert granite == 6 > unloaded
    assert networks.best == 1, "fewer programs load 0 and 2, 3 is deeper, and 4 is worse"
    assert networks.take([0, 2, 3]).best == 2
    assert networks.take([0, 2]).best == 1
    assert networks.take([4, 0]).best == 1


def test_the_front_is_all_that_nothing_dominates_and_the_recommended_network_may_be_off_it():
    found = made_up(
        [2.0, 2 + 0.9 * ALIKE_NATS, 2.1, 2.5, 2.6, 2.2, 2.5],
        [8, 9, 7, 6, 6.5, 7.5, 6],
        ["m2 f m2 f", "m2 f", "m2 f m2 f", "a a m2 m2", *["m2 f m2 f"] * 2, "a m2 a m2"],
    )
    assert found.best == 1, "the simplest one of those that are as good"
    assert found.front == [6, 3, 2, 0], "equal ones are both on it, the most even order first"


def test_of_each_label_the_best_network_is_found_the_best_label_first():
    found = made_up([2.3, 2.1, 2.2, 2.0], [1.0] * 4)
    assert found.of_each(lambda genotype: "ab"[genotype % 2]) == {"b": 3, "a": 2}


def test_candidates_are_the_best_and_the_best_of_each_set_of_mixers(expected):
    found = expected.candidates(7)
    values = expected.value[[expected.networks.index(network) for network in found]]
    assert found[0] == expected.networks[expected.best]
    assert (np.diff(values[:7]) > 0).all()
    of_mixers = [
        {spec.kind for spec in network.operators if spec.mixes_tokens} for network in found
    ]
    for network in expected.networks[::50]:
        assert {spec.kind for spec in network.operators if spec.mixes_tokens} in of_mixers


def test_a_recall_that_no_network_has_is_one_line():
    problem = problem_of()
    with pytest.raises(BudgetError, match=r"none of .* that were tried meets the budget and has"):
        explore(problem.space, problem.fitter, problem.scorer, seed=0, min_recall=1.1)
