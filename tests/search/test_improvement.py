"""Expected improvement over several objectives: against areas, sampling, and BoTorch."""

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

from flashnas.search.loss_model import expected_hypervolume_improvement


def beliefs(count, dimensions, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, dimensions)), 0.05 + 0.3 * rng.random((count, dimensions))


def test_known_candidates_gain_the_difference_of_the_hypervolumes():
    mean, _ = beliefs(25, 3)
    front, reference = np.random.default_rng(2).random((9, 3)), np.full(3, 0.95)
    gain = expected_hypervolume_improvement(mean, np.zeros_like(mean), front, reference)
    before = moocore.hypervolume(front, ref=reference)
    expected = [
        moocore.hypervolume(np.vstack([front, point]), ref=reference) - before for point in mean
    ]
    np.testing.assert_allclose(gain, expected, atol=1e-10)
    assert (gain > 0).any()
    assert (gain < 1e-12).any()


def test_three_objectives_with_one_known_agree_with_sampling():
    mean, sd = beliefs(3, 3)
    sd[:, 2] = 0.0
    front, reference = np.random.default_rng(3).random((6, 3)), np.full(3, 1.1)
    before = moocore.hypervolume(front, ref=reference)
    drawn = np.random.default_rng(4).normal(size=(3000, 3, 3)) * sd + mean
    sampled = np.array(
        [
            [
                moocore.hypervolume(np.vstack([front, point]), ref=reference) - before
                for point in points
            ]
            for points in drawn
        ]
    )
    got = expected_hypervolume_improvement(mean, sd, front, reference)
    assert (np.abs(got - sampled.mean(0)) < 4 * sampled.std(0) / np.sqrt(len(drawn))).all()


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


def test_botorch_agrees_on_three_uncertain_objectives():
    mean, sd = beliefs(8, 3)
    front, reference = np.random.default_rng(5).random((7, 3)), np.full(3, 1.2)
    boxes = FastNondominatedPartitioning(ref_point=torch.tensor(-reference), Y=torch.tensor(-front))
    acquisition = ExpectedHypervolumeImprovement(
        Independent(-mean, sd), ref_point=(-reference).tolist(), partitioning=boxes
    )
    with torch.no_grad():
        expected = acquisition(torch.zeros(8, 1, 2, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(
        expected_hypervolume_improvement(mean, sd, front, reference), expected, rtol=1e-6
    )


# -- loss against a known latency ------------------------------------------------------------------

FRONTS = {
    "empty": np.empty((0, 2)),
    "one": np.array([[4.0, 6.0]]),
    "three": np.array([[5.0, 2.0], [4.0, 5.0], [3.0, 8.0]]),
    "dominated, repeated and outside": np.array(
        [[5.0, 2.0], [4.0, 5.0], [4.0, 5.0], [4.5, 6.0], [4.0, 7.0], [9.0, 1.0], [1.0, 11.0]]
    ),
}
REFERENCE = np.array([6.0, 10.0])
MEAN = np.array([3.5, 4.5, 2.0, 5.5, 7.0, 4.0, 3.0])
SD = np.array([0.5, 1.0, 0.3, 0.2, 1.0, 0.7, 0.5])
LATENCY = np.array([4.0, 1.0, 9.0, 5.0, 3.0, 5.0, 12.0])


def of_two(mean, sd, latency, front):
    """The gain of (loss, latency) where the latency is known."""
    return expected_hypervolume_improvement(
        np.column_stack([mean, latency]), np.column_stack([sd, np.zeros_like(sd)]), front, REFERENCE
    )


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
    closed = of_two(MEAN, SD, LATENCY, front)
    before = dominated_area(front)
    for mean, sd, latency, expected in zip(MEAN, SD, LATENCY, closed, strict=True):
        gains = [
            dominated_area(np.vstack([front, [loss, latency]])) - before
            for loss in rng.normal(mean, sd, 2000)
        ]
        error = np.std(gains) / np.sqrt(len(gains))
        assert abs(np.mean(gains) - expected) <= 4.5 * error + 1e-9


def test_certain_candidates_add_their_area():
    mean, latency = np.array([3.5, 4.0, 2.0]), np.array([4.0, 6.0, 9.0])
    gain = of_two(mean, np.zeros(3), latency, FRONTS["three"])
    # 1.5 below level 5 over [4, 5], 0.5 below level 4 over [5, 8]; on the front's edge; 1 below
    # level 3 over [9, 10]
    np.testing.assert_allclose(gain, [1.5 + 1.5, 0.0, 1.0], atol=1e-9)
