"""Expected improvement over several objectives: against the closed form for two, sampling, and BoTorch."""

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models.deterministic import GenericDeterministicModel
from botorch.posteriors import GPyTorchPosterior
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from gpytorch.distributions import MultitaskMultivariateNormal
from linear_operator.operators import DiagLinearOperator

from flashnas.search.grid_improvement import expected_grid_improvement
from flashnas.search.hypervolume_improvement import expected_hypervolume_improvement
from flashnas.search.pareto import hypervolume


def beliefs(count, dimensions, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, dimensions)), 0.05 + 0.3 * rng.random((count, dimensions))


@pytest.mark.parametrize("points", [0, 1, 12])
def test_two_objectives_with_one_known_give_the_closed_form(points):
    mean, sd = beliefs(20, 2)
    sd[:, 1] = 0.0
    front, reference = np.random.default_rng(1).random((points, 2)), np.array([1.0, 0.9])
    expected = expected_hypervolume_improvement(mean[:, 0], sd[:, 0], mean[:, 1], front, reference)
    np.testing.assert_allclose(expected_grid_improvement(mean, sd, front, reference), expected, rtol=1e-9, atol=1e-12)


def test_known_candidates_gain_the_difference_of_the_hypervolumes():
    mean, _ = beliefs(25, 3)
    front, reference = np.random.default_rng(2).random((9, 3)), np.full(3, 0.95)
    gain = expected_grid_improvement(mean, np.zeros_like(mean), front, reference)
    before = hypervolume(front, reference)
    expected = [hypervolume(np.vstack([front, point]), reference) - before for point in mean]
    np.testing.assert_allclose(gain, expected, atol=1e-10)
    assert (gain > 0).any()
    assert (gain < 1e-12).any()


def test_three_objectives_with_one_known_agree_with_sampling():
    mean, sd = beliefs(3, 3)
    sd[:, 2] = 0.0
    front, reference = np.random.default_rng(3).random((6, 3)), np.full(3, 1.1)
    before = hypervolume(front, reference)
    drawn = np.random.default_rng(4).normal(size=(3000, 3, 3)) * sd + mean
    sampled = np.array([[hypervolume(np.vstack([front, point]), reference) - before for point in points]
                        for points in drawn])
    got = expected_grid_improvement(mean, sd, front, reference)
    assert (np.abs(got - sampled.mean(0)) < 4 * sampled.std(0) / np.sqrt(len(drawn))).all()


class Independent(GenericDeterministicModel):
    """A posterior of given means and deviations, whatever is asked."""

    def __init__(self, mean, sd):
        super().__init__(lambda x: x, num_outputs=mean.shape[-1])
        self.mean, self.sd = torch.tensor(mean), torch.tensor(sd)

    def posterior(self, X, **_):
        spread = DiagLinearOperator(self.sd.reshape(len(X), -1) ** 2)
        return GPyTorchPosterior(MultitaskMultivariateNormal(self.mean.reshape(len(X), 1, -1), spread))


def test_botorch_agrees_on_three_uncertain_objectives():
    mean, sd = beliefs(8, 3)
    front, reference = np.random.default_rng(5).random((7, 3)), np.full(3, 1.2)
    boxes = FastNondominatedPartitioning(ref_point=torch.tensor(-reference), Y=torch.tensor(-front))
    acquisition = ExpectedHypervolumeImprovement(Independent(-mean, sd), ref_point=(-reference).tolist(),
                                                 partitioning=boxes)
    with torch.no_grad():
        expected = acquisition(torch.zeros(8, 1, 2, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(expected_grid_improvement(mean, sd, front, reference), expected, rtol=1e-6)
