"""The exact choice, and what single changes say of sets."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from flashnas.conversion.choices import Choice
from flashnas.conversion.found import LayerChoice
from flashnas.conversion.law import SampledSet, SingleScores, fit_law
from flashnas.conversion.recall import RecallLaw, angle
from flashnas.conversion.select import choose, lowest_kl, resampled_layers, sample_sets
from flashnas.training.teacher_text import TextScore


def random_choices(generator, layers=6):
    """Two choices of each layer, which save 5 to 50 ms."""
    return [
        Choice(layer, name, None, float(generator.uniform(5, 50)))
        for layer in range(layers)
        for name in ("window", "none")
    ]


def scores_of(choices, kl, recalled):
    """Values lose as many nats as the share of recall says."""
    return SingleScores(choices, kl, recalled, -np.log(recalled))


def law_of(scores, alone, neighbours, **further):
    """A law with these weights of the sums."""
    law = replace(fit_law(scores, [], []), **further)
    law.weights[:2] = alone, neighbours
    return law


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("floor", [0.0, 0.4])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_choice_is_that_of_a_search_through_all_layouts(seed, floor, correlation):
    generator = np.random.default_rng(seed)
    choices = random_choices(generator)
    kl = generator.exponential(0.1, (len(choices), 1)) * np.ones((1, 4))
    scores = scores_of(choices, kl, generator.uniform(0.7, 1, (len(choices), 3)))
    law = law_of(scores, 1.2, correlation, recall=RecallLaw(0.9, half=0.1))
    save_ms = generator.uniform(20, 120)

    def expected(layout):
        alone, pairs, *_ = scores.features(layout)
        return 1.2 * alone + correlation * pairs, law.predict(layout).recall_low

    allowed = []
    for picked in itertools.product(
        *([None, choices[2 * layer], choices[2 * layer + 1]] for layer in range(6))
    ):
        layout = tuple(choice for choice in picked if choice is not None)
        if layout and sum(choice.saved_ms for choice in layout) >= save_ms:
            kl_of_set, recall = expected(layout)
            if recall >= floor:
                allowed.append(kl_of_set)
    found = choose(law, save_ms, floor)
    assert sum(choice.saved_ms for choice in found) >= save_ms
    assert expected(found)[1] >= floor - 1e-6
    assert expected(found)[0] == pytest.approx(min(allowed), rel=1e-3)


def test_no_layout_saves_more_than_all_changes():
    choices = random_choices(np.random.default_rng(0))
    scores = scores_of(choices, np.ones((len(choices), 4)), np.ones((len(choices), 2)))
    assert choose(law_of(scores, 1.0, 0.0), 1000.0, 0.0) is None


def law_and_sets(sets, unseen, layers=14):
    """Singles of known KL, the law of sets whose pairs of neighbours each have a correlation of
    their own, and sets that it has not seen."""
    generator = np.random.default_rng(0)
    choices = [Choice(layer, "none", None, 10.0) for layer in range(layers)]
    kl = generator.exponential(0.1, (layers, 1)) * np.ones((1, 8))
    scores = scores_of(choices, kl, np.ones((layers, 4)))
    true = law_of(scores, 1.1, 0.5)
    true.weights[2:] = generator.normal(0, 0.5, len(true.weights) - 2)
    chosen, measured = [], []
    for _ in range(sets + unseen):
        rows = sorted(generator.choice(layers, generator.integers(2, 7), replace=False))
        layout = tuple(choices[row] for row in rows)
        value = true.predict(layout).kl * np.exp(generator.normal(0, 0.05))
        documents = value * np.exp(generator.normal(0, 0.1, 8))
        chosen.append(SampledSet(layout, np.arange(8) % 2 == 0, np.arange(4) % 2 == 0))
        measured.append(TextScore(documents.tolist(), [0.0] * 8, [1.0] * 4, [0.0] * 4))
    law = fit_law(scores, chosen[:sets], measured[:sets])
    return law, chosen[sets:], measured[sets:]


@pytest.mark.parametrize("sets", [8, 16, 60])
def test_intervals_hold_nine_of_ten_sets_that_the_law_has_not_seen(sets):
    law, unseen, measured = law_and_sets(sets, 200)
    predictions = [law.predict(entry.layout) for entry in unseen]
    inside = [
        predicted.kl_low <= np.mean(score.kl) <= predicted.kl_high
        for predicted, score in zip(predictions, measured, strict=True)
    ]
    assert np.mean(inside) > 0.8


def test_with_more_sets_pairs_are_known_and_intervals_are_narrow():
    widths = []
    for sets in (8, 60):
        law, unseen, _ = law_and_sets(sets, 50)
        predictions = [law.predict(entry.layout) for entry in unseen]
        widths.append(np.mean([np.log(found.kl_high / found.kl) for found in predictions]))
    assert law.weights[0] == pytest.approx(1.1, abs=0.15)
    assert law.set_error < 0.2
    assert widths[1] < 0.7 * widths[0]


def test_without_sets_changes_add_up():
    scores = scores_of(
        [Choice(layer, "none", None, 10.0) for layer in range(3)],
        np.array([[0.1] * 4, [0.2] * 4, [0.4] * 4]),
        np.ones((3, 4)),
    )
    layout = tuple(scores.choices[:2])
    assert fit_law(scores, [], []).predict(layout).kl == pytest.approx(0.3)


def test_values_that_lose_twice_as_much_are_recalled_half_as_often_again():
    """Shares of recall multiply, and one layer can take all of it."""
    choices = [Choice(layer, "none", None, 10.0) for layer in range(4)]
    recalled = np.array([[0.9], [0.8], [0.01], [1.0]]) * np.ones((1, 2))
    scores = scores_of(choices, np.full((4, 8), 0.1), recalled)
    picked = [(0, 1), (0, 2), (1, 3), (0, 1, 3)]
    halves = np.arange(8) % 2 == 0, np.array([True, False])
    sets = [SampledSet(tuple(choices[row] for row in rows), *halves) for rows in picked]
    left = [np.prod(recalled[list(rows)], 0) ** 1.5 for rows in picked]
    measured = [
        TextScore([0.2] * 7 + [0.21], [0.0] * 8, shares.tolist(), [0.0] * 2) for shares in left
    ]
    law = fit_law(scores, sets, measured)
    assert law.recall.slope == pytest.approx(1.5, abs=0.01)
    assert law.predict(sets[0].layout).recall == pytest.approx(0.72**1.5, abs=0.01)
    assert law.predict(sets[1].layout).recall < 0.01


@pytest.mark.parametrize("prompts", [4, 6, 16, 64])
def test_nine_of_ten_fresh_recalls_lie_in_their_interval(prompts):
    """Of 10 layouts, by the law of 16 others; prompts are hard for all layouts, and for each."""
    generator = np.random.default_rng(0)
    inside = []
    for alike, apart in [(0.3, 0), (0.2, 0.25), (0.1, 0.1)] * 150:
        lost = generator.uniform(0.1, 1.2, 26)
        angles = angle(np.exp(-0.8 * lost)) + generator.normal(0, 0.1, 26)
        hard = generator.normal(0, alike, (2, 1, prompts))
        hard = hard + generator.normal(0, apart, (2, 26, prompts))
        recalled, fresh = np.sin(np.clip(angles[:, None] + hard, 0, np.pi / 2)) ** 2
        left = generator.permuted(recalled[:16], axis=1)[:, prompts // 2 :].mean(1)
        law = RecallLaw.fit(lost[:16], left, recalled[:16])
        for nats, share in zip(lost[16:], fresh[16:].mean(1), strict=True):
            _, low, high = law.predict(nats)
            inside.append(low <= share <= high)
    assert 0.88 <= np.mean(inside) <= 0.93


def simulated(seed, layers=20, prompts=4, keys=6):
    """Layers that cost recall by chance: `measure` has a function of layers, whose probes are of
    prompts of their own for each draw."""
    generator = np.random.default_rng(seed)
    damage = generator.gamma(0.6, 0.4, layers)
    damage[generator.choice(layers, 4, replace=False)] = 4.0
    kl = generator.lognormal(-2.5, 0.5, layers)
    draws = [
        (
            generator.exponential(2.0, (prompts, keys)),
            damage[:, None, None] * generator.exponential(1, (layers, prompts, keys))
            + generator.normal(0, 0.3, (layers, prompts, keys)),
        )
        for prompts in (prompts, 200)
    ]

    def measure(draw, rows):
        margin, drop = draws[draw][0], draws[draw][1][list(rows)].sum(0)
        documents = kl[list(rows)].sum() * generator.lognormal(0, 0.1, 8)
        recalled, lost = (margin > drop).mean(1), np.maximum(drop, 0).mean(1)
        return TextScore(documents.tolist(), [0.0] * 8, recalled.tolist(), lost.tolist())

    return [Choice(layer, "none", None, 10.0) for layer in range(layers)], measure


@pytest.mark.slow
def test_the_recall_that_is_promised_is_kept():
    """Few prompts, and a choice that takes the layers in which chance was kind: what is left in
    truth keeps the floor."""
    promised, far = [], []
    for seed in range(8):
        choices, measure = simulated(seed)
        scores = SingleScores.of(choices, [measure(0, (row,)) for row in range(len(choices))])
        law = fit_law(scores, [], [])
        sets = sample_sets(law, (20.0, 70.0), 0.9, 12, seed)

        def rows(layout):
            return [choice.layer for choice in layout]

        law = fit_law(scores, sets, [measure(0, rows(entry.layout)) for entry in sets])
        for count in (3, 6):
            layout, floor = lowest_kl(law, 10.0 * count, 0.9)
            predicted = law.predict(layout)
            true = np.mean(measure(1, rows(layout)).recalled)
            promised.append(true > floor - 0.02)
            far.append(predicted.recall - true)
    assert np.mean(promised) > 0.9
    assert abs(np.mean(far)) < 0.07


def test_a_layer_whose_documents_disagree_is_undecided():
    choices = [Choice(layer, "none", None, 10.0) for layer in range(3)]
    kl = np.array([[0.01] * 8, [0.3, 0.1] * 4, [0.1, 0.3] * 4])
    scores = scores_of(choices, kl, np.ones((3, 4)))
    layout = choose(law_of(scores, 1.0, 0.0), 20.0, 0.0)
    shares = resampled_layers(law_of(scores, 1.0, 0.0), layout, 20.0, 0.0)
    assert shares[0] == LayerChoice(0, "none", {"none": 1.0}, decided=True)
    assert not shares[1].decided
    assert not shares[2].decided
    assert sum(shares[1].shares.values()) == pytest.approx(1)


def test_a_layer_whose_prompts_disagree_is_undecided_where_no_layout_keeps_the_floor():
    """By the second prompt alone neither layer keeps the floor, and the other one has a lower KL."""
    choices = [Choice(layer, "none", None, 10.0) for layer in range(2)]
    recalled = np.exp(-np.array([[0.2, 1.0], [1.0, 1.2]]))
    law = law_of(scores_of(choices, np.array([[0.1] * 8, [0.05] * 8]), recalled), 1.0, 0.0)
    law = replace(law, recall=RecallLaw(1.0))
    layout = choose(law, 10.0, 0.5)
    assert layout == (choices[0],)
    assert [entry.decided for entry in resampled_layers(law, layout, 10.0, 0.5)] == [False, False]
