"""The recommended network stays the same where scores differ by what a machine may change."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from problems import trials_of

from flashnas.architecture.networks import taken
from flashnas.study.config import SearchConfig
from flashnas.study.load import load_problem
from flashnas.study.loop import search

BUDGETS_MS = np.geomspace(13_500, 80_000, 20)  # on h100_sxm, for decode-8k
DISTURBANCE = 1e-5  # nats
DRAWS = 25
ROBUST = 0.95  # of the budgets


@pytest.fixture(scope="module")
def scored():
    """All networks that programs load. Their values do not depend on the budget."""
    problem = load_problem(SearchConfig(budget_ms=float(BUDGETS_MS[-1])))
    return problem, search(problem)


@pytest.mark.slow  # it scores all of the space
def test_disturbed_scores_leave_the_recommended_network(scored):
    problem, trials = scored
    rng, kept, found = np.random.default_rng(0), [], set()
    for budget_ms in BUDGETS_MS:
        index = np.flatnonzero(trials.latency_ms <= budget_ms)
        networks, values = taken(trials.networks, index), trials.value[index]
        latency_ms = trials.latency_ms[index]
        best = trials_of(problem, networks, value=values, latency_ms=latency_ms).best
        found.add(networks[best].hash)
        disturbed = values + DISTURBANCE * rng.standard_normal((DRAWS, len(values)))
        kept.append(
            all(
                trials_of(problem, networks, value=value, latency_ms=latency_ms).best == best
                for value in disturbed
            )
        )
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
    for process in searches.values():
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        summary = json.loads(out)
        answers.append((summary["recommended"]["hash"], summary["recommended"]["notation"]))
    assert answers[0] == answers[1]
