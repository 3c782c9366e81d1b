"""The law of depth, width and tokens: found again, bears outliers, foretells larger sizes."""

import numpy as np
import pandas as pd
import pytest

from flashnas.base.errors import BudgetError, ConfigError, RunError
from flashnas.latency.prediction import LatencyModel
from flashnas.training.store import read_table
from flashnas.trust.depth_width import ENOUGH, Sizes, findings
from flashnas.trust.scaling_grid import GridTraining, block, of_one_kind
from flashnas.trust.scaling_law import CONSTANTS, fit

TRUE = {"L0": 2.0, "a": 1.5, "alpha": 0.7, "b": 30.0, "beta": 0.6, "c": 40.0, "gamma": 0.35}
DEPTHS, WIDTHS, TOKENS = (3, 6, 9, 12, 18), (512, 768, 1024, 1536), (20_480, 40_960, 81_920, 163_840)


def true_loss(depth, width, tokens):
    k = TRUE
    return k["L0"] + k["a"] * depth ** -k["alpha"] + k["b"] * width ** -k["beta"] + k["c"] * tokens ** -k["gamma"]


def points(depths=DEPTHS, widths=WIDTHS, tokens=TOKENS, noise=0.0, seed=0):
    depth, width, count = (axis.ravel().astype(float) for axis in np.meshgrid(depths, widths, tokens, indexing="ij"))
    exact = true_loss(depth, width, count)
    return pd.DataFrame({"depth": depth, "width": width, "tokens": count,
                         "loss": exact + noise * np.random.default_rng(seed).standard_normal(len(exact))})


def test_constants_are_found_again_from_exact_losses():
    found = fit(points(), resamples=0).to_dict()
    assert {name: found[name] for name in TRUE} == pytest.approx(TRUE, rel=1e-4)
    assert found["intervals"] == {}
    assert {"L0", *(name for pair in CONSTANTS.values() for name in pair)} == set(TRUE)


def test_noise_widens_the_intervals_which_hold_the_truth():
    law = fit(points(noise=0.01), resamples=60)
    assert law.noise_nats == pytest.approx(0.01, rel=0.4)
    found = law.to_dict()
    inside = [low <= TRUE[name] <= high for name, (low, high) in found["intervals"].items()]
    assert len(inside) == 7
    assert sum(inside) >= 5
    low, high = law.interval(12, 1024, 81_920)
    assert low < true_loss(12, 1024, 81_920) < high
    wide = law.interval(36, 4096, 10**7)
    assert wide[1] - wide[0] > high - low


def test_outliers_do_not_move_the_law():
    clean = points(noise=0.005)
    loss = clean.loss.to_numpy(copy=True)
    loss[::16] += 0.8  # trainings that went wrong
    law = fit(clean.assign(loss=loss), resamples=0)
    assert np.abs(law.loss(clean.depth, clean.width, clean.tokens)
                  - true_loss(clean.depth, clean.width, clean.tokens)).max() < 0.03


def test_one_token_count_leaves_its_term_in_the_constant():
    found = fit(points(tokens=(81_920,)), resamples=0).to_dict()
    assert found["c"] is None
    assert found["gamma"] is None
    assert found["alpha"] == pytest.approx(TRUE["alpha"], rel=1e-3)
    assert found["L0"] == pytest.approx(TRUE["L0"] + TRUE["c"] * 81_920 ** -TRUE["gamma"], rel=1e-4)


def test_a_term_that_the_data_do_not_show_is_named():
    flat = points(noise=0.003)
    loss = flat.loss - TRUE["a"] * flat.depth ** -TRUE["alpha"] + 0.002 * flat.depth  # deeper is worse
    law = fit(flat.assign(loss=loss), resamples=0)
    assert law.gone == ("depth",)
    assert law.loss(30, 1024, 81_920) == pytest.approx(law.loss(3, 1024, 81_920), abs=1e-3)


@pytest.mark.parametrize(("grid", "rule"), [
    (points(depths=(4,)), "at least 2 values of depth; got 4 only"),
    (points(widths=(512,)), "at least 2 values of width; got 512 only"),
    (points(depths=(3, 6), widths=(512, 1024), tokens=(20_480,)), "5 constants, .* at least as many sizes; got 4"),
    (points()[np.zeros(80, dtype=bool)], "needs trainings of at least as many sizes; got 0"),
    (points(depths=(3, 6), widths=(512, 1024), tokens=TOKENS)[np.arange(16) % 3 == 0], "7 constants, .*; got 6"),
])
def test_too_little_is_refused_in_one_line(grid, rule):
    with pytest.raises(RunError, match=f"table.csv: .*{rule}") as error:
        fit(grid, place="table.csv")
    assert "\n" not in str(error.value)


# -- larger sizes --------------------------------------------------------------------------------------------


def test_the_largest_depth_and_width_are_held_out_and_foretold():
    found = findings(points(noise=0.004), resamples=20)
    held = {(one.depth, one.width) for one in found.held_out}
    assert held == {(d, w) for d in DEPTHS for w in WIDTHS if d == max(DEPTHS) or w == max(WIDTHS)}
    assert len(found.held_out) == len(held) * len(TOKENS)
    assert found.extrapolation_error < 0.04
    for one in found.held_out:
        assert one.error == pytest.approx(np.exp(one.predicted) / np.exp(one.loss) - 1)
    assert {one.tokens for one in found.held_out_tokens} == {max(TOKENS)}
    assert found.mixing.low < 0 < found.mixing.high
    as_json = found.to_dict()
    assert as_json["extrapolation_error"] == max(abs(held["error"]) for held in as_json["held_out"])


def test_held_out_sizes_are_not_in_the_fit_that_foretells_them():
    grid = points()
    larger = (grid.depth == max(DEPTHS)) | (grid.width == max(WIDTHS))
    spoiled = grid.assign(loss=grid.loss + 0.5 * larger)
    found = findings(spoiled, resamples=0)
    assert [one.predicted - true_loss(one.depth, one.width, one.tokens) for one in found.held_out] == pytest.approx(
        [0.0] * len(found.held_out), abs=1e-3)
    assert found.extrapolation_error == pytest.approx(1 - np.exp(-0.5), rel=0.01)


def test_with_few_values_the_corner_is_held_out():
    few = points(depths=DEPTHS[:ENOUGH - 1], widths=WIDTHS[:ENOUGH - 1])
    assert {(one.depth, one.width) for one in findings(few, resamples=0).held_out} == {(9, 1024)}


def test_depth_that_pays_off_later_shows_in_depth_and_tokens_together():
    grid = points(noise=0.002)
    late = -0.05 * np.log(grid.depth / 9) * np.log(grid.tokens / 60_000)
    found = findings(grid.assign(loss=grid.loss + late), resamples=0)
    assert found.mixing.value == pytest.approx(-0.05, abs=0.01)
    assert found.mixing.high < 0


# -- the answer ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    return findings(points(), resamples=5)


@pytest.fixture(scope="module")
def sizes(exact):
    return Sizes("m2 f", exact, LatencyModel("h100_sxm", "decode-8k"))


def test_the_answer_is_the_best_size_of_all_within_the_budget(sizes):
    answer = sizes.answer(10_000)
    every = [(float(true_loss(depth, width, max(TOKENS))), depth, width)
             for depth in range(3, 37) for width in range(512, 3073, 256)
             if sizes.model.estimate(block("m2 f", depth, width)).latency_ms <= 10_000]
    assert answer["loss"] == pytest.approx(min(every)[0], abs=1e-3)
    assert answer["latency_ms"] <= 10_000
    assert answer["latency_ms"] == pytest.approx(
        sizes.model.estimate(block("m2 f", answer["depth"], answer["width"])).latency_ms)
    assert answer["notation"] == f"{answer['width']}: {answer['depth']}x(m2 f)"
    assert [one["depth"] for one in answer["by_depth"]] == [d for d in DEPTHS if any(e[1] == d for e in every)]
    assert min(one["loss"] for one in answer["by_depth"]) >= answer["loss"] - 1e-3


def test_a_larger_budget_gets_a_lower_loss_and_more_depth(sizes):
    ladder = [size for _, size in sizes.ladder()]
    assert len(ladder) > 3
    assert np.all(np.diff([size.loss for size in ladder]) < 0)
    assert np.all(np.diff([size.depth for size in ladder]) >= 0)
    assert ladder[0].extrapolated == ()


def test_a_budget_that_nothing_meets_names_the_fastest(sizes):
    with pytest.raises(BudgetError, match="within 3 ms; the fastest, depth 3 at width 512, takes"):
        sizes.answer(3)


def test_one_token_count_gives_the_loss_at_no_other():
    found = findings(points(tokens=(81_920,)), resamples=0)
    with pytest.raises(ConfigError, match="at_tokens must be 81,920, the only token count of the trainings; got 9,000"):
        Sizes("m2 f", found, LatencyModel("h100_sxm", "decode-8k"), 9000)


def test_more_tokens_change_the_loss_and_not_the_answer(sizes, exact):
    later = Sizes("m2 f", exact, sizes.model, 10**6)
    now, then = sizes.best(8000), later.best(8000)
    assert (now.depth, now.width) == (then.depth, then.width)
    assert now.loss - then.loss == pytest.approx(true_loss(9, 9, max(TOKENS)) - true_loss(9, 9, 10**6), rel=1e-3)


def test_sizes_that_no_network_has_are_refused():
    deep = points(depths=(4, 8, 10**9))
    with pytest.raises(ConfigError, match=r"depth 1000000000 and width 1536: operators: at most 4096"):
        Sizes("m2 f", findings(deep, resamples=0), LatencyModel("h100_sxm", "decode-8k"))


def test_a_pattern_that_suits_no_width_is_refused(exact):
    with pytest.raises(ConfigError, match=r"scaling_law.pattern 'm2\(head_dim=62\)' at depth 1"):
        Sizes("m2(head_dim=62)", exact, LatencyModel("h100_sxm", "decode-8k"))


# -- the table -----------------------------------------------------------------------------------------------


def frame(**columns):
    grid = points()
    return pd.DataFrame({"depth": grid.depth.astype(int), "width": grid.width.astype(int),
                         "tokens": grid.tokens.astype(int), "loss": grid.loss, **columns})


def test_a_table_of_ones_own_needs_depth_width_tokens_and_loss(tmp_path):
    table = frame()
    table.loc[3, "loss"] = None  # a training that failed
    table.to_csv(tmp_path / "t.csv", index=False)
    read = read_table(tmp_path / "t.csv", GridTraining)
    found = findings(read, resamples=0)
    assert (len(found.points), found.failed) == (len(table) - 1, 1)
    assert found.points["loss"].to_numpy() == pytest.approx(table["loss"].dropna().to_numpy())
    assert set(read["seed"]) == {0}


def test_a_law_is_of_one_pattern_and_one_recipe(tmp_path):
    path = tmp_path / "t.csv"
    both = pd.concat([frame(pattern="m2 f"), frame(pattern="a f")])
    both.to_csv(path, index=False)
    table = read_table(path, GridTraining)
    with pytest.raises(RunError, match=r"several patterns.*'a f', 'm2 f'"):
        of_one_kind(table, path, None)
    assert set(of_one_kind(table, path, "m2  f")["pattern"]) == {"m2 f"}
    with pytest.raises(RunError, match="no training of pattern 'd f'"):
        of_one_kind(table, path, "d f")
    mixed = frame(pattern="m2 f", recipe=["cpu-1", "cpu-2"] * (len(points()) // 2))
    with pytest.raises(RunError, match=r"recipe must be the same.*cpu-1, cpu-2"):
        of_one_kind(mixed.assign(width_factor=16), path, None)
