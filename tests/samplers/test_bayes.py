"""The surrogate, the kriging believer and the pool of the Bayesian search."""

from types import SimpleNamespace

import numpy as np
import torch
from bit_space import BitSpace

from flashnas.samplers import Trial, loss_model, make_sampler
from flashnas.samplers.bayes import Posterior, _modelled
from flashnas.samplers.loss_model import Surrogate

RNG = np.random.default_rng(0)
FEATURES = RNG.random((30, 4))
LOSSES = 3.0 + 0.5 * FEATURES[:, 0] - 0.8 * FEATURES[:, 1] ** 2


def make(space, **options):
    fit_width = options.pop("fit_width", space.fit_width)
    return make_sampler(
        "bayes", space=space, seed=0, fit_width=fit_width, **{"initial": 6, "pool": 64, **options}
    )


def test_the_surrogate_predicts_a_smooth_loss_with_honest_spread():
    model = Surrogate(FEATURES, LOSSES, seed=0)
    new = np.random.default_rng(1).random((40, 4))
    truth = 3.0 + 0.5 * new[:, 0] - 0.8 * new[:, 1] ** 2
    mean, covariance = model.predict(new)
    assert model.fitted
    assert np.abs(mean - truth).max() < 0.1 * np.ptp(truth)
    far, at_data = model.predict(new + 5.0)[1], model.predict(FEATURES)[1]
    assert np.diag(far).min() > 10 * np.diag(at_data).max()
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)


def test_a_failed_fit_falls_back_to_the_prior(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no luck")

    monkeypatch.setattr(loss_model, "fit_gpytorch_mll", fail)
    model = Surrogate(FEATURES, LOSSES, seed=0)
    mean, covariance = model.predict(FEATURES)
    assert not model.fitted
    assert np.corrcoef(mean, LOSSES)[0, 1] > 0.8
    assert (np.diag(covariance) >= 0).all()


def test_believing_equals_conditioning_the_process_on_the_mean():
    model = Surrogate(FEATURES[:12], LOSSES[:12], seed=0)
    new = FEATURES[12:]
    mean, covariance = model.predict(new)
    believed = covariance.copy()
    joint = Posterior([mean], [believed], np.arange(18.0)[:, None], [model.noise])
    points = joint.condition_on_mean(3, np.empty((0, 2)))
    target = (mean[3:4] - model.center) / model.scale
    with torch.no_grad():
        conditioned = model._model.condition_on_observations(
            torch.tensor(new[3:4]), torch.tensor(target[:, None])
        )
        posterior = conditioned(torch.tensor(new))
    np.testing.assert_allclose(posterior.mean.numpy() * model.scale + model.center, mean, atol=1e-6)
    np.testing.assert_allclose(
        posterior.covariance_matrix.numpy() * model.scale**2, believed, atol=1e-6
    )
    assert points.tolist() == [[mean[3], 3.0]]


def test_failures_and_stragglers_count_as_bad_but_not_as_outliers():
    normal = [4.0 + 0.1 * i for i in range(9)]
    modelled = _modelled([*normal, 60.0, None])
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


def test_the_reference_latency_is_the_spaces_and_the_reference_loss_that_of_a_random_candidate():
    """With the first candidates' latency nothing slower could ever gain, however low its loss; with
    their worst loss the fast end would take nearly all."""
    space = BitSpace(14)
    rng = np.random.default_rng(3)
    algorithm = make(space)
    seen = [space.sample(rng) for _ in range(20)]
    losses = np.array([5.0 - 0.1 * sum(g.bits) for g in seen])
    model = [loss_model.Surrogate(algorithm._scaled(seen), losses, seed=0)]
    for outlier in (0.0, 50.0):
        reference = algorithm._reference(
            [np.append(losses, losses.max() + outlier)], model, np.array([[14.1], [14.2]])
        )
        slow = sorted(space.fit_width(space.sample(rng))[1] for _ in range(100))
        assert reference[1] > slow[-2] > 14.2
        if not outlier:
            assert np.median(losses) < reference[0] < losses.max()


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
