"""Expected improvement over several objectives: BoTorch's, and areas where nothing is uncertain."""

import moocore
import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models.deterministic import GenericDeterministicModel
from botorch.posteriors import GPyTorchPosterior
from botorch.utils.multi_objective.box_decompositions.non_dominated import (
    FastNondominatedPartitioning,
)
from gpytorch.distributions import MultitaskMultivariateNormal
from linear_operator.operators import DiagLinearOperator

from flashnas.samplers.loss_model import expected_hypervolume_improvement

# points of a front for each number of objectives, all within [0, 1.1]
FRONTS = {
    "empty": np.empty((0, 2)),
    "one": np.array([[0.4, 0.6]]),
    "dominated, repeated and outside": np.array(
        [[0.5, 0.2], [0.4, 0.5], [0.4, 0.5], [0.45, 0.6], [0.4, 0.7], [0.9, 0.1], [0.1, 1.3]]
    ),
    "three objectives": np.random.default_rng(0).random((7, 3)),
}


class Independent(GenericDeterministicModel):
    """A posterior of given means and deviations, whatever is asked."""

    def __init__(self, mean, sd):
        super().__init__(lambda x: x, num_outputs=mean.shape[-1])
        self.mean, self.sd = torch.tensor(mean), torch.tensor(sd)

    def posterior(self, X, **_):
        spread = DiagLinearOperator(self.sd.reshape(len(X), -1) ** 2)
        return GPyTorchPosterior(
            MultitaskMultivariateNormal(self.mean.reshape(len(X), 1, -1), spread)
        )


@pytest.mark.parametrize("known", [False, True], ids=["all uncertain", "the last known"])
@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_botorch_agrees(front, known):
    objectives = front.shape[1]
    rng = np.random.default_rng(1)
    mean, sd = rng.random((8, objectives)), 0.05 + 0.3 * rng.random((8, objectives))
    reference = np.full(objectives, 1.1)
    if known:
        sd[:, -1] = 0.0
    boxes = FastNondominatedPartitioning(ref_point=torch.tensor(-reference), Y=torch.tensor(-front))
    acquisition = ExpectedHypervolumeImprovement(
        Independent(-mean, np.maximum(sd, 1e-5)),
        ref_point=(-reference).tolist(),
        partitioning=boxes,
    )
    with torch.no_grad():
        expected = acquisition(torch.zeros(8, 1, 2, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(
        expected_hypervolume_improvement(mean, sd, front, reference), expected, rtol=1e-6
    )


def test_known_candidates_gain_the_difference_of_the_hypervolumes():
    rng = np.random.default_rng(2)
    mean, front, reference = rng.random((25, 3)), rng.random((9, 3)), np.full(3, 0.95)
    gain = expected_hypervolume_improvement(mean, np.zeros_like(mean), front, reference)
    before = moocore.hypervolume(front, ref=reference)
    expected = [
        moocore.hypervolume(np.vstack([front, point]), ref=reference) - before for point in mean
    ]
    np.testing.assert_allclose(gain, expected, atol=1e-10)
    assert (gain > 0).any()
    assert (gain < 1e-12).any()
