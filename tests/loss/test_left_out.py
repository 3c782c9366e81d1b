"""How well publications are predicted that the model has not seen: the shipped figures, and the
counting by hand.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_up_trainings import published

from flashnas.loss.load import loss_model, shipped_model
from flashnas.observations.losses import groups_without_repeats
from flashnas.observations.read_losses import read_published

RESULTS = Path(__file__).parents[2] / "experiments" / "evidence"


@pytest.fixture(scope="module")
def study(experiment):
    """The script that leaves out each publication."""
    return experiment("left_out")


@pytest.fixture(scope="module")
def figures(study, shipped):
    return study.summary(shipped, study.left_out_pairs(shipped))


def test_the_evidence_predicts_publications_that_it_has_not_seen(figures):
    assert figures["pairs"] == 428
    assert figures["right"] >= 0.86 * 428
    assert figures["publications"]["share"] >= 0.86
    assert figures["publications"]["log_score"] >= 1.7
    assert figures["rmse_nats"] <= 0.042
    assert 0.85 <= figures["publications"]["coverage"] <= 0.95
    assert figures["publications"]["spearman"] > 0.65


def test_the_figures_are_those_that_the_experiment_keeps(figures):
    kept = json.loads((RESULTS / "results.json").read_text())["left_out"]
    assert figures["right"] == pytest.approx(kept["right"], abs=1)
    assert figures["rmse_nats"] == pytest.approx(kept["rmse_nats"], rel=0.01)


def test_a_summary_by_hand(study):
    losses = {"g": (1.0, 0.9, 0.89), "h": (2.0, 2.1)}
    rows = [
        published(operators, nats, group)
        for group, values in losses.items()
        for operators, nats in zip(("a f", "d f", "m2 f"), values, strict=False)
    ]
    pairs = [
        study.Pair(0, 1, 0.1, 0.05, 0.1),
        study.Pair(0, 2, 0.11, -0.05, 0.1),
        study.Pair(1, 2, 0.01, 0.05, 0.1),
        study.Pair(3, 4, -0.1, 0.0, 0.05),
    ]
    found = study.summary(rows, pairs)
    assert (found["pairs"], found["right"], found["share"]) == (3, 1.5, 0.5)
    assert found["rmse_nats"] == pytest.approx(np.sqrt((0.05**2 + 0.16**2 + 0.04**2 + 0.1**2) / 4))
    assert found["coverage"] == 0.75  # the last one lies outside 1.64 times 0.05, 0.16 inside 0.164
    half = 1.6448536 * np.array([0.1, 0.1, 0.1, 0.05])
    score = (2 * half.sum() + 20 * (0.1 - half[3])) / 4  # the last one alone pays for its miss
    assert found["interval_score"] == pytest.approx(score)
    assert found["groups"] == [
        {"group": "g", "pairs": 2, "right": 1},
        {"group": "h", "pairs": 1, "right": 0.5},
    ]
    apart = [dataclasses.replace(row, source=row.group) for row in rows]
    equal = study.summary(apart, pairs)["publications"]
    assert (equal["share"], equal["coverage"]) == (0.5, 0.5)
    assert study.summary(rows, [])["share"] is None


def test_a_group_that_repeats_smaller_ones_is_counted_once(shipped):
    groups = groups_without_repeats(shipped)
    assert "mesa_sizes_15b" not in groups
    assert {"mesa_145m_15b", "mesa_400m_15b", "mesa_1b_15b"} <= set(groups)
    smaller = [published("a f", 1.0), published("d f", 0.9)]
    larger = [dataclasses.replace(each, group="all") for each in smaller]
    assert list(groups_without_repeats([*smaller, *larger, published("m2 f", 0.8, "all")])) == ["g"]


def test_a_publication_that_was_left_out_has_no_say(study, shipped):
    """Its own losses do not change what the model without it predicts."""
    titans = [row for row in shipped if row.source == "2501.00663"]
    moved = [dataclasses.replace(row, nats=row.nats + 0.3 * i) for i, row in enumerate(titans)]
    before, after = (
        [(pair.predicted, pair.sd) for pair in study.left_out_pairs(rows)]
        for rows in (titans, moved)
    )
    assert before == after
    assert "2501.00663" not in shipped_model("2501.00663").rows.publication


def test_rows_of_a_file_are_predicted_by_all_other_publications(study, tmp_path):
    path = tmp_path / "kept_back.csv"
    path.write_text(
        "group,source,operators,params,metric,value\n"
        "g,own,12x(a f),350M,x_loss,3.0\ng,own,12x(gd f),350M,x_loss,2.9\n"
        "h,2405.21060,24x(m2),350M,x_loss,2.95\nh,2405.21060,6x(m2 f a f),350M,x_loss,2.93\n"
    )
    rows = read_published(path)
    models = {"own": loss_model(), "2405.21060": shipped_model("2405.21060")}
    assert study.left_out_pairs(rows) == study.predicted_pairs(rows, models.__getitem__)


# -- regret ----------------------------------------------------------------------------------------


def test_the_shipped_rule_loses_little_to_the_best_row_of_a_group(study, shipped):
    found = study.regret(shipped)
    assert found["shipped"]["pooled"] <= 0.009
    assert found["shipped"]["equal"] <= 0.009
    assert found["shipped"]["pooled"] <= found["mean"]["pooled"] + 5e-4 < found["pure"]["pooled"]
    assert found["pure"]["pooled"] < found["random"]["pooled"]
