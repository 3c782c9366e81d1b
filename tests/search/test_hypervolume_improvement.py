"""The closed form against Monte Carlo over exact areas, and against BoTorch with a latency of tiny variance."""

import numpy as np
import pytest

from flashnas.search.hypervolume_improvement import expected_hypervolume_improvement, expected_improvement, staircase

FRONTS = {
    "empty": np.empty((0, 2)),
    "one": np.array([[4.0, 6.0]]),
    "three": np.array([[5.0, 2.0], [4.0, 5.0], [3.0, 8.0]]),
    "dominated, repeated and outside": np.array([[5.0, 2.0], [4.0, 5.0], [4.0, 5.0], [4.5, 6.0], [4.0, 7.0],
                                                 [9.0, 1.0], [1.0, 11.0]]),
}
REFERENCE = np.array([6.0, 10.0])
MEAN = np.array([3.5, 4.5, 2.0, 5.5, 7.0, 4.0, 3.0])
SD = np.array([0.5, 1.0, 0.3, 0.2, 1.0, 0.7, 0.5])
LATENCY = np.array([4.0, 1.0, 9.0, 5.0, 3.0, 5.0, 12.0])


def dominated_area(points: np.ndarray, cells: int = 400) -> float:
    """Area under the reference, counted on a grid whose lines the latencies of the tests lie on."""
    latency = (np.arange(cells) + 0.5) * REFERENCE[1] / cells
    best = np.full(cells, REFERENCE[0])
    for loss, start in points:
        best = np.where(latency >= start, np.minimum(best, loss), best)
    return float((REFERENCE[0] - best).sum() * REFERENCE[1] / cells)


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_equals_monte_carlo(front):
    rng = np.random.default_rng(0)
    closed = expected_hypervolume_improvement(MEAN, SD, LATENCY, front, REFERENCE)
    before = dominated_area(front)
    for mean, sd, latency, expected in zip(MEAN, SD, LATENCY, closed, strict=True):
        gains = [dominated_area(np.vstack([front, [loss, latency]])) - before
                 for loss in rng.normal(mean, sd, 2000)]
        error = np.std(gains) / np.sqrt(len(gains))
        assert abs(np.mean(gains) - expected) <= 4.5 * error + 1e-9


@pytest.mark.parametrize("front", [FRONTS["one"], FRONTS["three"]], ids=["one", "three"])
def test_equals_botorch_when_the_latency_has_almost_no_variance(front):
    torch = pytest.importorskip("torch")
    from botorch.acquisition.multi_objective import ExpectedHypervolumeImprovement
    from botorch.models.model import Model
    from botorch.posteriors import GPyTorchPosterior
    from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning
    from gpytorch.distributions import MultitaskMultivariateNormal

    class Given(Model):
        """Two independent normal outcomes, read off the input itself: -mean loss, -latency, sd of the loss."""

        num_outputs = 2
        batch_shape = torch.Size()

        def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
            variance = torch.stack([X[..., 2] ** 2, torch.full_like(X[..., 2], 1e-12)], dim=-1)
            return GPyTorchPosterior(MultitaskMultivariateNormal(X[..., :2], torch.diag_embed(variance.squeeze(-2))))

    partitioning = NondominatedPartitioning(ref_point=torch.tensor(-REFERENCE), Y=torch.tensor(-front))
    acquisition = ExpectedHypervolumeImprovement(Given(), list(-REFERENCE), partitioning)
    with torch.no_grad():
        theirs = acquisition(torch.tensor(np.stack([-MEAN, -LATENCY, SD], axis=1)).unsqueeze(1)).numpy()
    ours = expected_hypervolume_improvement(MEAN, SD, LATENCY, front, REFERENCE)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (ours[:-1] > 1e-6).sum() >= 5  # the comparison is not one of zeros


def test_certain_candidates_add_their_area():
    mean, latency = np.array([3.5, 4.0, 2.0]), np.array([4.0, 6.0, 9.0])
    gain = expected_hypervolume_improvement(mean, np.zeros(3), latency, FRONTS["three"], REFERENCE)
    # 1.5 below level 5 over [4, 5], 0.5 below level 4 over [5, 8]; on the front's edge; 1 below level 3 over [9, 10]
    np.testing.assert_allclose(gain, [1.5 + 1.5, 0.0, 1.0], atol=1e-9)


def test_the_staircase_keeps_the_front_only():
    edges, levels = staircase(FRONTS["dominated, repeated and outside"], REFERENCE)
    assert edges.tolist() == [-np.inf, 2.0, 5.0, 10.0]
    assert levels.tolist() == [6.0, 5.0, 4.0]


def test_expected_improvement_never_falls_below_zero():
    far = expected_improvement(np.array([1e3, 0.0]), np.array([1e-3, 1.0]), np.array([0.0, -40.0]))
    assert (far >= 0).all()
