"""An optimiser finds the holes of a model: searches by the expected full loss under many budgets,
and looks at what wins. Nothing here forbids a network outside the support; the charge for silence
alone must keep winners inside.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from cases import cases
from problems import problem_of, with_many_candidates

from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import load_workload
from flashnas.loss.composition import ASPECTS, aspect, outside_support
from flashnas.loss.mix import bodies, body_sizes
from flashnas.space import load_space
from flashnas.study import load
from flashnas.study.loop import search

# of the way from the fastest to the slowest network, in logarithms: one for each place in turn
SHARES = (0.1,), (0.5,), (0.9,)
COUNTED = (
    "operators",
    "mixers",
    "width",
)  # reasons of the composition and of the shape; a size is that of the space
CLOSE = 0.02  # of ln(width / depth): the standard deviation grows from 0, and widths come in steps


def reasons(network) -> list[str]:
    """Why a network is outside the support, but for its size, and for a width that is hardly above
    the widest.
    """
    active = body_sizes(bodies([network]))[0, 1]
    close = abs(float(aspect(np.array(active), np.array(network.hidden))) - ASPECTS[1]) < CLOSE
    return [
        words
        for words in outside_support(network)
        if any(name in words for name in COUNTED) and not (close and "width" in words)
    ]


def winners(space_name, table_name, workload_name, shares):
    """(budget_ms, floor, winner, whether any network that was looked at is inside) of every
    budget.
    """
    space = load_space(space_name)
    costs = TableCosts(LatencyModel(LatencyTable.load(table_name), load_workload(workload_name)))
    rng = np.random.default_rng(0)
    sizes = [space.architectures(space.sample(rng)) for _ in range(24)]
    least = min(costs.model.latencies([networks[-1] for networks in sizes]))
    most = max(costs.model.latencies([networks[0] for networks in sizes]))
    for share in shares:
        budget_ms = least * (most / least) ** share
        fitter = Fitter(space, costs, [Budget("latency_ms", budget_ms)])
        for floor in (-0.05, -1.0):
            found = search(
                dataclasses.replace(
                    problem_of(),
                    space=space,
                    costs=costs,
                    fitter=fitter,
                    min_recall=floor,
                    proposals=load.PROPOSALS,
                )
            )
            inside = any(not reasons(network) for network in found.networks)
            yield budget_ms, floor, found.networks[found.best], inside


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "shares"),
    list(zip(cases("study", "holes"), itertools.cycle(SHARES), strict=False)),
    ids=lambda value: "-".join(map(str, value)),
)
def test_no_winner_lies_outside_what_publications_have_trained(place, shares, monkeypatch):
    with_many_candidates(monkeypatch)
    outside, looked_at = [], 0
    for budget_ms, floor, winner, inside in winners(*place, shares):
        looked_at += inside
        if inside and (words := reasons(winner)):
            outside.append(
                f"{budget_ms:.4g} ms, floor {floor}: {winner.notation}: {'; '.join(words)}"
            )
    assert looked_at, "nothing of the space is inside the support"
    assert not outside, "\n".join(outside)
