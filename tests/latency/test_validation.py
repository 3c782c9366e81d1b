import math
import shutil

import numpy as np
import pytest
from invented_times import CHAT, truth, write_invented_table
from tiny_tables import write_entry

from flashnas.base.errors import SpaceError
from flashnas.latency import validation
from flashnas.latency.calibration import INTERVAL, conformal_margin
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.validation import (
    POOL,
    TIMED,
    sample,
    store,
    validate,
)
from flashnas.reporting.results import validation_text
from flashnas.space import load_space

TINY = load_space("tiny")


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(validation, "POOL", 10)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return write_invented_table(tmp_path_factory.mktemp("invented") / "t", patch).path


@pytest.fixture
def table(written, tmp_path):
    return LatencyTable.load(shutil.copytree(written, tmp_path / "t"))


def validated(table, measure=None, workload=CHAT, **more):
    """The result of a validation by invented times, kept in the table."""
    model = LatencyModel(LatencyTable.load(table.path), workload)
    result = validate(model, TINY, measure or truth(table), **more)
    store(result, model, TINY, seed=0)
    return result


def test_an_additive_truth_has_no_error(table):
    result = validated(table, count=6)
    assert len({found["hash"] for found in result["architectures"]}) == 6
    for summary in result["metrics"]:
        assert (summary["count"], summary["spearman"], summary["max_error"]) == (6, 1, 0)
    assert np.isnan(validated(table, count=2)["metrics"][0]["spearman"]), "two have no order"


def test_errors_are_of_the_prediction_and_are_printed(table):
    result = validated(table, truth(table, scale=2.0), count=3)
    for summary in result["metrics"]:
        assert (summary["bias"], summary["mean_error"]) == (-0.5, 0.5)
    text = validation_text(result)
    assert "decode step  mean error 50.0%, worst 50.0%, bias -50.0%, rank correlation 1.0" in text
    assert text.count("-50.0%") == 3 * 3 + 3  # of each network and metric, and of the summaries


def test_architectures_are_spread_over_latency_and_never_those_of_rows(table):
    model = LatencyModel(table, CHAT)
    rng = np.random.default_rng(0)
    chosen = sample(TINY, model, 10, rng)
    latencies = model.latencies(chosen)
    pool = model.latencies(
        [
            TINY.architecture(TINY.sample(rng), int(rng.choice(TINY.hidden_sizes)))
            for _ in range(300)
        ]
    )
    assert (np.diff(latencies) > 0).all()
    for quantile in (0.2, 0.5, 0.8):
        assert (latencies < np.quantile(pool, quantile)).mean() == pytest.approx(quantile, abs=0.2)
    write_entry(table.path, TIMED, [a.hash for a in chosen])
    again = sample(
        TINY, LatencyModel(LatencyTable.load(table.path), CHAT), 10, np.random.default_rng(0)
    )
    assert not {a.hash for a in again} & {a.hash for a in chosen}


def test_too_few_networks_are_one_line(table):
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4 * POOL):
        sizes = TINY.architectures(TINY.sample(rng))
        drawn.append(sizes[rng.integers(len(sizes))].hash)
    write_entry(table.path, TIMED, drawn)
    with pytest.raises(
        SpaceError, match="gave only 0 architectures that no rows were fitted to; asked for 4"
    ):
        validated(table, count=4)


# -- residuals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [9, 20, 39])
def test_the_bound_covers_as_often_as_it_says(count):
    assert conformal_margin([0.0] * 8) == math.inf
    rng = np.random.default_rng(0)
    residuals = rng.standard_t(3, (4000, count + 1)) * 0.05 - 0.03
    covered = np.mean([row[-1] <= conformal_margin(row[:-1].tolist()) for row in residuals])
    rank = np.ceil((count + 1) * INTERVAL - 1e-9)
    assert covered == pytest.approx(rank / (count + 1), abs=0.02)
    assert rank / (count + 1) >= INTERVAL - 1e-9


def test_a_later_validation_replaces_the_earlier_of_the_same_question(table):
    for count in (5, 7):
        validated(table, count=count)
    entries = LatencyTable.load(table.path).meta["validations"]
    assert [entry["architectures"] for entry in entries] == [7]
