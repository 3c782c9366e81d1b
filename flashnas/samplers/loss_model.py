"""The model of trained qualities of `bayes`. Imports torch.

It is a Gaussian process of each quality over features of networks, made for tens of observations.
The other objectives are exact.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.mlls import ExactMarginalLogLikelihood
from scipy.special import ndtr

from flashnas.space import SearchSpace
from flashnas.trials.pareto import non_dominated

FIT_STEPS = 60  # of L-BFGS-B; more made the search slower, not better

_log = logging.getLogger(__name__)


def features_of(space: SearchSpace[Any], genotype: Any, network: Any) -> np.ndarray:
    """The space's features of a genotype, log hidden size and log parameters of its network [D]."""
    # a foreign network may lack them
    sizes = [getattr(network, name, None) for name in ("hidden", "params")]
    return np.array(
        [*space.features(genotype), *(np.log(size) if size else 0.0 for size in sizes)],
        dtype=np.float64,
    )


class Scale:
    """Shifts and scales features so that those of `rows` [N, D] lie within 0..1."""

    def __init__(self, rows: np.ndarray) -> None:
        span = np.ptp(rows, axis=0)
        self.low = rows.min(axis=0)
        self.span = np.where(span > 1e-12, span, 1.0)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.low) / self.span


@dataclass
class Posterior:
    """Predictions for N networks: trained qualities [K] as means [N] and covariances [N, N], exact
    objectives [N, J]. Points and references have the trained qualities first.

    noises: variance of one observation, of each quality.
    """

    means: list[np.ndarray]
    covariances: list[np.ndarray]
    exact: np.ndarray
    noises: list[float]

    @classmethod
    def of(cls, processes: Sequence[Surrogate], features: np.ndarray, exact: np.ndarray) -> Self:
        """Predictions at features [N, D]; processes: one for each quality."""
        predictions = [process.predict(features) for process in processes]
        return cls(
            [mean for mean, _ in predictions],
            [covariance for _, covariance in predictions],
            exact,
            [process.noise for process in processes],
        )

    def gain(self, points: np.ndarray, reference: np.ndarray) -> np.ndarray:
        sds = [np.sqrt(np.maximum(np.diag(covariance), 0.0)) for covariance in self.covariances]
        return expected_hypervolume_improvement(
            np.column_stack([*self.means, self.exact]),
            np.column_stack([*sds, np.zeros_like(self.exact)]),
            points,
            reference,
        )

    def condition_on_mean(self, index: int, points: np.ndarray) -> np.ndarray:
        """Observe the network at its means: shrink the covariances, return the points with it."""
        for covariance, noise in zip(self.covariances, self.noises, strict=True):
            column = covariance[:, index].copy()
            covariance -= np.outer(column, column) / (column[index] + noise + 1e-12)
        return np.vstack([points, [*(mean[index] for mean in self.means), *self.exact[index]]])


class Surrogate:
    """Matern-5/2 with one length scale per feature and BoTorch's dimension-scaled prior, which
    keeps tens of features smooth until the data say otherwise; noise is inferred. float64, one
    thread, seeded. Of features [N, D] within about 0..1 and losses [N], N >= 2.

    `fitted` is False when fitting failed and the hyper-parameters are those of the prior.
    """

    def __init__(self, features: np.ndarray, losses: np.ndarray, *, seed: int) -> None:
        self.fitted = True
        self.center = float(losses.mean())
        self.scale = float(losses.std()) or 1.0
        x_ND = torch.as_tensor(features, dtype=torch.float64)
        y_N1 = torch.as_tensor((losses - self.center) / self.scale, dtype=torch.float64).unsqueeze(
            -1
        )
        with _alone(seed):
            self._model = _build(x_ND, y_N1)
            try:
                fit_gpytorch_mll(
                    ExactMarginalLogLikelihood(self._model.likelihood, self._model),
                    optimizer_kwargs={"options": {"maxiter": FIT_STEPS}},
                )
            except Exception as error:
                # BoTorch raises its own errors, torch's LinAlgError, RuntimeError
                _log.info("the surrogate keeps its prior: %s", error)
                self._model = _build(x_ND, y_N1)
                self.fitted = False
            self._model.eval()
            # variance of one observation
            self.noise = float(self._model.likelihood.noise.mean()) * self.scale**2

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N] and covariance [N, N] of the noise-free loss at features [N, D]."""
        with _alone(0), torch.no_grad():
            normal = self._model(torch.as_tensor(features, dtype=torch.float64))
            mean = normal.mean.numpy()
            covariance = normal.covariance_matrix.numpy()
        return mean * self.scale + self.center, covariance * self.scale**2


def _build(x_ND: torch.Tensor, y_N1: torch.Tensor) -> SingleTaskGP:
    kernel = get_covar_module_with_dim_scaled_prior(
        ard_num_dims=x_ND.shape[-1], use_rbf_kernel=False
    )
    return SingleTaskGP(x_ND, y_N1, covar_module=kernel, outcome_transform=None)


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, own random state, no warnings: the answer depends on nothing else in the
    process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


# -- expected improvement over a few objectives, of which some are known exactly -------------------


def expected_improvement(mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(level - Y, 0)] for Y ~ N(mean, sd²); arrays that broadcast, sd > 0."""
    z = (level - mean) / sd
    return np.maximum(
        (level - mean) * ndtr(z) + sd * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi), 0.0
    )


def expected_hypervolume_improvement(
    mean: np.ndarray,
    sd: np.ndarray,
    points: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """How much volume each of N candidates is expected to dominate beyond `points` [P, M], below
    `reference` [M].

    mean, sd: [N, M], independent normal beliefs; sd 0: known exactly. Lower is better. The planes
    through the points cut the space into a grid. In a cell that no point dominates a candidate at y
    gains the product over objectives of max(upper - y, 0) - max(lower - y, 0), and the expectation
    of a product of independent factors is the product of ordinary expected improvements. Exact (as
    the box decompositions of Yang et al. 2019), on the full grid, which is small enough for fronts
    of tens of points in up to four objectives.
    """
    inside = points[(points < reference).all(axis=1)]
    inside = inside[non_dominated(inside)] if len(inside) else inside
    dimensions = range(len(reference))
    levels = [np.unique(inside[:, m]) for m in dimensions]  # upper edges but the last
    # cells that a point dominates
    taken = np.zeros([len(level) + 1 for level in levels], dtype=bool)
    taken[tuple(np.searchsorted(levels[m], inside[:, m]) + 1 for m in dimensions)] = True
    for m in dimensions:
        taken = np.logical_or.accumulate(taken, axis=m)
    widths_NL = []  # expected widths of the cells
    for m in dimensions:
        below = expected_improvement(
            mean[:, m, None],
            np.maximum(sd[:, m, None], 1e-12),
            np.append(levels[m], reference[m])[None, :],
        )
        widths_NL.append(np.diff(below, axis=1, prepend=0.0))
    # the sum over all cells, one objective after the other; the first as a product of matrices,
    # which is the large one
    gain = np.tensordot(widths_NL[-1], (~taken).astype(np.float64), axes=(1, -1))
    for width_NL in reversed(widths_NL[:-1]):
        gain = np.einsum("n...l,nl->n...", gain, width_NL)
    return gain
