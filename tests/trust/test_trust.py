"""Rank correlations against scipy, intervals and thresholds against data of known noise, the table's rules."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import one_line
from scipy import stats

from flashnas.base.errors import RunError
from flashnas.report.draw_matplotlib import draw_matplotlib
from flashnas.report.study_figures import trust_picture, trust_points
from flashnas.report.terminal_trust import headline, trust_text, verdict
from flashnas.training.store import read_table
from flashnas.trust.analysis import analyse, expected_minimum, interval, kendall, spearman
from flashnas.trust.study import RankedTraining

TOKENS = {"short": 81_920, "long": 327_680, "wide": 81_920}


def trainings(count=24, *, spread=0.05, noise=0.01, agreement=1.0, seeds=2, variants=("short", "long"), shift=0.0,
              rng=None):
    """Losses of `count` architectures; `agreement`: share of the long order that is in the short one. `shift`: what a
    seed adds to all. Parameters say nothing."""
    rng = rng or np.random.default_rng(1)
    rows = []
    for number in range(count):
        long = rng.normal(0, spread)
        short = agreement * long + math.sqrt(1 - agreement ** 2) * rng.normal(0, spread)
        params, latency = rng.uniform(5e8, 1e9), rng.uniform(5, 10)
        for variant, seed in itertools.product(variants, range(seeds)):
            quality = long if variant == "long" else short
            rows.append({"set": "front" if number < 8 else "spread", "notation": f"64: {number}x(d)",
                         "hash": f"h{number:02d}", "params": params, "latency_ms": latency, "variant": variant,
                         "width_factor": 8 if variant == "wide" else 16, "tokens": TOKENS[variant], "seed": seed,
                         "loss": 5.6 + quality + shift * seed + rng.normal(0, noise), "bits_per_byte": 1.9,
                         "tokens_per_s": 3000.0, "seconds": 27.0, "proxy_params": 1e6, "reason": ""})
    return pd.DataFrame(rows)


# -- statistics ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12))
def test_rank_correlations_are_scipys_with_ties_too(pairs):
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert spearman(x, y) == kendall(x, y) == 0
        return
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    stacked = np.stack([x, x[::-1]]), np.stack([y, y])
    assert spearman(*stacked)[0] == pytest.approx(float(spearman(x, y)))
    assert kendall(*stacked)[1] == pytest.approx(float(kendall(x[::-1], y)))


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 30), st.integers(0, 1000))
def test_an_interval_holds_its_value_and_repeats(count, seed):
    x, y = np.random.default_rng(seed).normal(size=(2, count))
    found = interval([x, y], spearman)
    assert -1 <= found.low <= found.high <= 1
    assert found == interval([x, y], spearman)


def test_intervals_hold_the_true_correlation_about_as_often_as_they_say():
    rng, rho, hits = np.random.default_rng(0), 0.7, 0
    true = 6 / math.pi * math.asin(rho / 2)  # Spearman of a normal pair
    for _ in range(40):
        x, e = rng.normal(size=(2, 30))
        found = interval([x, rho * x + math.sqrt(1 - rho ** 2) * e], spearman)
        hits += found.low <= true <= found.high
    assert hits >= 33  # 95 % nominal; fewer than 33 of 40 has probability 2e-4


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6), st.data())
def test_the_expected_minimum_is_that_of_all_draws(values, data):
    drawn = data.draw(st.integers(1, len(values)))
    exact = np.mean([min(picked) for picked in itertools.combinations(values, drawn)])
    assert expected_minimum(np.array(values), drawn) == pytest.approx(exact, abs=1e-9)


# -- what a table says ---------------------------------------------------------------------------------------


def test_a_clear_order_is_called_one_and_beats_the_parameter_count():
    trust = analyse(trainings(noise=0.003))
    found = trust.agreement("short", "long")
    assert found.count == 24
    assert found.spearman.low > 0.9
    assert trust.gains["parameters"].low > 0
    assert set(trust.gains) == {"parameters"}  # all have one width
    assert trust.ceiling > 0.98
    words = "\n".join(verdict(trust.to_dict()))
    assert "the order largely holds when training is 4 times longer" in words
    assert "short training ranks better than the parameter count" in words
    assert next(p.regret for p in trust.picks if (p.rule, p.top) == ("short", 1)) < 0.02


def test_a_width_that_ranks_as_well_is_said():
    table = trainings(noise=0.003)
    order = table[table["variant"] == "long"].groupby("hash")["loss"].mean().rank(ascending=False)
    table["notation"] = [f"{2048 + 64 * order[key]:.0f}(meta=4): d" for key in table["hash"]]
    trust = analyse(table)
    assert trust.agreement("width", "long").spearman.value == pytest.approx(1)
    assert trust.gains["width"].high <= 0
    words = "\n".join(verdict(trust.to_dict()))
    assert ("NOISE: the width alone ranks better" if trust.gains["width"].high < 0 else
            "not shown: that short training ranks better than the width alone") in words
    table.loc[0, "notation"] = "?"
    assert "width" not in analyse(table).gains


def test_noise_is_called_noise():
    trust = analyse(trainings(spread=0.001, noise=0.02), ["h00", "h01", "h02", "h03"])
    assert trust.agreement("short", "long").spearman.low <= 0
    words = "\n".join(verdict(trust.to_dict()))
    assert "NOISE: the order cannot be told from chance once training is 4 times longer" in words
    assert (trust.tied_neighbours, trust.neighbours) == (3, 3)
    assert "3 of 3 neighbours on the front cannot be told apart" in words
    assert trust.noise_of("short").pairs_tied > 0.9


def test_an_order_that_longer_training_reverses_is_told_apart_from_noise_of_seeds():
    trust = analyse(trainings(agreement=0.0, noise=0.002, count=30))
    assert abs(trust.agreement("short", "long").spearman.value) < 0.5
    assert trust.ceiling > 0.95
    assert trust.noise_of("short").pairs_tied < 0.2


def test_the_noise_is_that_of_the_data_whatever_a_seed_adds_to_all():
    for seeds in (2, 3):
        quiet = analyse(trainings(60, noise=0.01, seeds=seeds, variants=("short",))).noise_of("short")
        shifted = analyse(trainings(60, noise=0.01, seeds=seeds, variants=("short",), shift=0.5)).noise_of("short")
        assert quiet.sd == pytest.approx(0.01, rel=0.25)
        assert shifted.sd == pytest.approx(quiet.sd, rel=1e-6)
        assert quiet.degrees == 59 * (seeds - 1)
        assert quiet.detectable == pytest.approx(1.96 * math.sqrt(2) * quiet.sd, rel=0.03)
        assert quiet.detectable_mean == pytest.approx(quiet.detectable / math.sqrt(seeds))


def test_of_two_equal_architectures_one_pair_in_twenty_looks_different():
    trust = analyse(trainings(60, spread=0.0, noise=0.01, variants=("short",)))
    assert trust.noise_of("short").pairs_tied == pytest.approx(0.95, abs=0.04)


def test_every_comparison_that_the_table_allows_is_made_and_no_other():
    everything = analyse(trainings(variants=("short", "long", "wide")))
    pairs = {(a.first, a.second) for a in everything.agreements}
    assert pairs == {("short", "long"), ("short", "wide"), ("long", "wide"), ("parameters", "long"),
                     ("latency", "long"), *((f"{v} seed 0", f"{v} seed 1") for v in ("short", "long", "wide"))}
    only_short = analyse(trainings(variants=("short",), seeds=1))
    assert {(a.first, a.second) for a in only_short.agreements} == {("parameters", "short"), ("latency", "short")}
    assert (only_short.ceiling, only_short.gains, only_short.noise, only_short.picks) == (None, {}, (), ())
    words = "\n".join(verdict(only_short.to_dict()))
    assert "not known yet: whether longer training ranks alike" in words
    assert "not known yet: how much is noise" in words
    assert trust_text(only_short.to_dict())


def test_failed_trainings_are_counted_and_left_out():
    table = trainings()
    table.loc[(table["hash"] == "h03") & (table["variant"] == "long"), "loss"] = np.nan
    table["latency_ms"] = np.nan
    trust = analyse(table)
    assert (trust.failed, trust.agreement("short", "long").count) == (2, 23)
    assert trust.agreement("latency", "long") is None
    assert "2 more failed" in verdict(trust.to_dict())[0]


def test_too_few_architectures_and_mixed_lengths_are_the_users_error():
    with pytest.raises(RunError, match="at least 3 architectures with a loss; the results hold 2"):
        analyse(trainings(2))
    table = trainings()
    table.loc[3, "tokens"] = 5
    with pytest.raises(RunError, match="'long' trainings must share one tokens; got 5, 327,680"):
        analyse(table)


def test_the_picture_shows_each_architecture_with_its_seeds():
    table = trainings(5)
    points = trust_points(table)
    assert len(points) == 5
    own = table[(table["hash"] == "h02") & (table["variant"] == "long")]["loss"]
    assert points.loc["h02", "long"] == pytest.approx(own.mean())
    assert points.loc["h02", "long_half"] == pytest.approx((own.max() - own.min()) / 2)
    words = headline(analyse(table).to_dict())
    assert words in [text.get_text() for text in draw_matplotlib(trust_picture(table, words)).texts]
    assert trust_picture(table[table["variant"] == "short"], "").empty


def test_what_is_wrong_in_a_table_is_one_line_with_its_place(tmp_path):
    table = trainings(1, variants=("short",)).astype(object)
    table.loc[1, "variant"] = "shrot"
    table.to_csv(tmp_path / "t.csv", index=False)
    assert "t.csv:3: training.variant must be one of short, long, wide; got 'shrot'" in one_line(
        RunError, read_table, tmp_path / "t.csv", RankedTraining)
