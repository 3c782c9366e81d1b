"""Loss and milliseconds, uncertain together."""

import numpy as np
import pytest
from problems import problem_of, trials_of

from flashnas.architecture import Architecture
from flashnas.loss.prediction import WITHIN_SDS
from flashnas.study.comparison import TRAIT_SD, at_one_latency, nats_per_efold, with_traits


def test_a_narrow_front_is_not_extrapolated(monkeypatch):
    """Networks of 50.0 to 50.5 ms differ by 0.3 nats; no error of a latency is worth more."""
    monkeypatch.setattr("flashnas.study.comparison.nats_per_efold", lambda trials: (30.0, 0.3))
    losses, both = joint(STATES, ATTENTION)
    further = both.shared - losses.shared
    assert np.sqrt(np.diag(further)).max() == pytest.approx(0.3)


STATES, ATTENTION = "1536: 12x(m2 f)", "1280: 10x(a f)"


@pytest.fixture
def sloped(monkeypatch):
    """Networks at 0.5 nats for a factor of e of latency."""
    monkeypatch.setattr("flashnas.study.comparison.nats_per_efold", lambda trials: (0.5, np.inf))


def joint(*texts):
    problem, networks = problem_of(), [Architecture.parse(text) for text in texts]
    losses = problem.scorer.posterior(networks)
    return losses, at_one_latency(problem, trials_of(problem, networks), networks)


def test_those_of_others_widen_the_difference_by_what_latency_is_worth(sloped):
    losses, both = joint(STATES, ATTENTION)
    assert (both.mean == losses.mean).all()
    sds, shares = [], []
    for text in (STATES, ATTENTION):
        network, costs = Architecture.parse(text), problem_of().costs
        metrics = costs.metrics(network)
        sds.append(np.log(metrics["upper_ms"] / metrics["lower_ms"]) / (2 * WITHIN_SDS))
        parts = costs.details(network)["operators_ms"]
        ms = np.array([sum(parts.get(kind, {}).values()) for kind in ("a", "m2", "f", "head")])
        assert ms.sum() > 0.9 * metrics["latency_ms"]
        shares.append(ms / np.linalg.norm(ms))
    further = both.shared - losses.shared
    assert np.sqrt(np.diag(further)) == pytest.approx(0.5 * np.array(sds))
    cosine = further[0, 1] / np.sqrt(further[0, 0] * further[1, 1])
    assert cosine == pytest.approx(shares[0] @ shares[1], abs=0.02)
    assert 0.1 < cosine < 0.9, "head and feed-forward layers are in both"


def test_what_latency_is_worth_is_the_slope_of_the_front():
    latency_ms = np.linspace(50.0, 100.0, 20)
    networks = [Architecture.parse(f"{hidden}: m2 f") for hidden in range(512, 5632, 256)]
    values = 3.0 - 0.4 * np.log(latency_ms)
    problem = problem_of()
    trials = trials_of(problem, networks, value=values, latency_ms=latency_ms)
    assert nats_per_efold(trials)[0] == pytest.approx(0.4)
    few = trials_of(problem, networks[:2], value=values[:2], latency_ms=latency_ms[:2])
    assert nats_per_efold(few) == (0, 0), "two points have no slope"
    losses, both = (
        of(networks[:2])
        for of in (problem.scorer.posterior, lambda found: at_one_latency(problem, few, found))
    )
    assert (both.shared == losses.shared).all()


def test_what_the_evidence_takes_as_equal_widens_a_difference():
    tied, untied = "1536: 8x(m2 f) 4x(a f)", "1536(tied=false): 8x(m2 f(relu2=true)) 4x(a f)"
    networks = [Architecture.parse(text) for text in (tied, untied, tied)]
    losses = problem_of().scorer.posterior(networks)
    wider = with_traits(losses, networks)
    further = wider.shared - losses.shared
    assert wider.mean is losses.mean
    assert further[0, 0] == pytest.approx(further[1, 1]), "none is surer of itself"
    for other, traits in ((1, 2), (2, 0)):
        of_difference = further[0, 0] + further[other, other] - 2 * further[0, other]
        assert of_difference == pytest.approx(traits * TRAIT_SD**2, abs=1e-12)
