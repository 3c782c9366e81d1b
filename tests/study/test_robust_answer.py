"""The recommended network stays the same where scores differ by what a machine may change."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from flashnas.study import explore as room
from flashnas.study.config import SearchConfig
from flashnas.study.explore import Explored
from flashnas.study.problem import load_problem

BUDGETS_MS = np.geomspace(13_500, 80_000, 20)  # on h100_sxm, for decode-8k
DISTURBANCE = 1e-5  # nats
DRAWS = 25
ROBUST = 0.95  # of the budgets


@pytest.fixture(scope="module")
def scored():
    """All networks that programs load. Their values do not depend on the budget."""
    problem = load_problem(SearchConfig(budget_ms=float(BUDGETS_MS[-1])))
    genotypes = list(problem.space.enumerate())
    networks = [network for g in genotypes for network in problem.space.architectures(g)]
    latency_ms = np.array(problem.costs.latencies(networks))
    values = problem.scorer.values(networks)
    columns = {"value": values, "latency_ms": latency_ms}
    return Explored(genotypes, networks, columns, ("full_loss", "latency_ms"), len(genotypes))


@pytest.mark.slow  # it scores all of the space
def test_disturbed_scores_leave_the_recommended_network(scored, monkeypatch):
    monkeypatch.setattr(room, "loading", functools.cache(room.loading))
    rng, kept, found = np.random.default_rng(0), [], set()
    for budget_ms in BUDGETS_MS:
        within = scored.take(np.flatnonzero(scored.latency_ms <= budget_ms))
        found.add(within.networks[within.best].hash)
        disturbed = {
            dataclasses.replace(
                within,
                columns={
                    **within.columns,
                    "value": within.value + DISTURBANCE * rng.standard_normal(len(within.value)),
                },
            ).best
            for _ in range(DRAWS)
        }
        kept.append(disturbed == {within.best})
    assert np.mean(kept) >= ROBUST
    assert len(found) >= 10, "budgets differ in their answers"


def numpy_without_avx512():
    """Features of this machine that numpy has kernels for, besides those of a Haswell."""
    from numpy._core import _multiarray_umath as umath

    wide = (name for name in umath.__cpu_dispatch__ if "512" in name or name == "X86_V4")
    return " ".join(name for name in wide if umath.__cpu_features__.get(name))


@pytest.mark.slow
def test_other_kernels_of_blas_and_numpy_give_the_same_answer(tmp_path):
    other = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": numpy_without_avx512()}
    searches = {}
    for name, environment in (("plain", {}), ("other", other)):
        command = "-m flashnas search --budget-ms 20k --json --out"
        searches[name] = subprocess.Popen(
            [sys.executable, *command.split(), str(tmp_path / name)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
    answers = []
    for search in searches.values():
        out, _ = search.communicate(timeout=300)
        assert search.returncode == 0
        summary = json.loads(out)
        answers.append((summary["recommended"]["hash"], summary["recommended"]["notation"]))
    assert answers[0] == answers[1]
