"""The process, the kriging believer and the first candidates of the Bayesian search."""

from types import SimpleNamespace

import numpy as np
from bit_space import BitSpace

from flashnas.samplers import Trial, bayes
from flashnas.samplers.bayes import Belief, Process, without_outliers

FEATURES = np.random.default_rng(0).random((30, 4))


def make(space, **options):
    fit_width = options.pop("fit_width", space.fit_width)
    return bayes.Bayes(
        space=space, seed=0, fit_width=fit_width, **{"initial": 6, "pool": 64, **options}
    )


def loss_of(features):
    return 3.0 + 0.5 * features[:, 0] - 0.8 * features[:, 1] ** 2


def test_the_process_predicts_a_smooth_loss_with_honest_spread():
    process = Process(FEATURES, loss_of(FEATURES))
    new = np.random.default_rng(1).random((40, 4))
    mean, covariance = process.predict(new)
    assert np.abs(mean - loss_of(new)).max() < 0.1 * np.ptp(loss_of(new))
    far, at_data = process.predict(new + 5.0)[1], process.predict(FEATURES)[1]
    assert np.diag(far).min() > 10 * np.diag(at_data).max()
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    # what nothing depends on has the longest scales, and noise is told from the loss
    assert process.weights[:2].min() > 5 * process.weights[2:].max()
    noisy = loss_of(FEATURES) + np.random.default_rng(2).normal(0, 0.1, 30)
    assert 0.05 < Process(FEATURES, noisy).noise ** 0.5 < 0.2


def test_the_fit_is_a_mode(monkeypatch):
    """At which the gradient vanishes: with a wrong one the search would end elsewhere."""
    fits = []
    minimize = bayes.minimize
    monkeypatch.setattr(
        bayes, "minimize", lambda *args, **k: fits.append(args) or minimize(*args, **k)
    )
    Process(FEATURES, loss_of(FEATURES))
    cost, start = fits[0]
    gradient = cost(start)[1]
    for i, step in enumerate(1e-5 * np.eye(len(start))):
        slope = (cost(start + step)[0] - cost(start - step)[0]) / 2e-5
        assert abs(slope - gradient[i]) < 1e-4 * max(1.0, abs(slope))


def test_equal_losses_are_no_division_by_zero():
    mean, covariance = Process(FEATURES, np.full(30, 4.0)).predict(FEATURES)
    np.testing.assert_allclose(mean, 4.0)
    assert np.isfinite(covariance).all()


def test_believing_equals_conditioning_the_process_on_the_mean():
    process = Process(FEATURES[:12], loss_of(FEATURES[:12]))
    mean, covariance = process.predict(FEATURES[12:])
    belief = Belief(
        np.column_stack([mean, np.arange(18.0)]), {0: covariance.copy()}, {0: process.noise}
    )
    points = belief.observe_mean(3, np.empty((0, 2)))
    assert points.tolist() == [[mean[3], 3.0]]
    # the covariance of all others and of the one, by the rule of a normal distribution
    rest = np.arange(18) != 3
    joint = covariance + process.noise * np.diag(~rest)
    expected = np.linalg.inv(np.linalg.inv(joint + 1e-9 * np.eye(18))[np.ix_(rest, rest)])
    np.testing.assert_allclose(belief.covariances[0][np.ix_(rest, rest)], expected, atol=1e-6)


def test_failures_and_stragglers_count_as_bad_but_not_as_outliers():
    normal = [4.0 + 0.1 * i for i in range(9)]
    modelled = without_outliers(np.array([*normal, 60.0, np.nan]))
    np.testing.assert_allclose(modelled[:9], normal)
    assert modelled[9] == modelled[10]
    assert 4.8 < modelled[9] < 7.0


def test_it_learns_to_avoid_what_fails():
    space = BitSpace(14)
    algorithm = make(space)
    for cycle in range(5):
        asked = algorithm.ask(10)
        failures = sum(g.bits[0] for g in asked)
        algorithm.tell(
            [
                Trial(genotype=g, state="failed")
                if g.bits[0]
                else Trial(genotype=g, values=(5.0 - 0.1 * sum(g.bits[1:]), space.fit_width(g)[1]))
                for g in asked
            ]
        )
        if cycle == 0:
            assert failures >= 3
    assert failures <= 1


def test_the_first_candidates_spread_over_latency_and_are_large():
    space = BitSpace(14)
    large = {}

    def fit_width(
        genotype,
    ):  # the size is not the latency: bits at odd places add parameters alone
        network = SimpleNamespace(
            params=1 + sum(genotype.bits[1::2]), notation=str(genotype), hash=str(genotype)
        )
        large[genotype] = network.params
        return network, 1.0 + sum(genotype.bits[::2])

    asked = make(space, fit_width=fit_width, initial=6).ask(6)
    latencies = [fit_width(genotype)[1] for genotype in asked]
    assert latencies == sorted(latencies)
    assert latencies[0] <= 3
    assert latencies[-1] >= 6
    rng = np.random.default_rng(0)
    random = [fit_width(space.sample(rng))[0].params for _ in range(200)]
    assert np.mean([large[genotype] for genotype in asked]) > np.mean(random) + 1
