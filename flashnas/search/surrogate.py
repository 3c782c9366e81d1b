"""A Gaussian process of the loss over architecture features, made for tens of observations. Imports torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.mlls import ExactMarginalLogLikelihood

FIT_STEPS = 60           # of L-BFGS-B; more made the search slower, not better

_log = logging.getLogger(__name__)


class Surrogate:
    """Matern-5/2 with one length scale per feature and BoTorch's dimension-scaled prior, which keeps tens of
    features smooth until the data say otherwise; noise is inferred. float64, one thread, seeded.

    `fitted` is False when fitting failed and the hyper-parameters are those of the prior.
    """

    def __init__(self, features: np.ndarray, losses: np.ndarray, *, seed: int,
                 like: Surrogate | None = None) -> None:
        """features [N, D], about within 0..1; losses [N], N >= 2. like: take its hyper-parameters and fit
        none."""
        self.fitted: bool = like is None or like.fitted
        self.center = float(losses.mean())
        self.scale = float(losses.std()) or 1.0
        x_ND = torch.as_tensor(features, dtype=torch.float64)
        y_N1 = torch.as_tensor((losses - self.center) / self.scale, dtype=torch.float64).unsqueeze(-1)
        with _alone(seed):
            self._model = _build(x_ND, y_N1)
            try:
                if like is not None:
                    self._model.load_state_dict(like._model.state_dict())
                else:
                    fit_gpytorch_mll(ExactMarginalLogLikelihood(self._model.likelihood, self._model),
                                     optimizer_kwargs={"options": {"maxiter": FIT_STEPS}})
            except Exception as error:  # BoTorch raises its own errors, torch's LinAlgError, RuntimeError
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
            mean, covariance = normal.mean.numpy(), normal.covariance_matrix.numpy()
        return mean * self.scale + self.center, covariance * self.scale**2

    def predict_mean(self, features: np.ndarray) -> np.ndarray:
        """Mean [N] alone, without the covariance."""
        with _alone(0), torch.no_grad():
            mean: np.ndarray = self._model(torch.as_tensor(features, dtype=torch.float64)).mean.numpy()
        return mean * self.scale + self.center


def _build(x_ND: torch.Tensor, y_N1: torch.Tensor) -> SingleTaskGP:
    kernel = get_covar_module_with_dim_scaled_prior(ard_num_dims=x_ND.shape[-1], use_rbf_kernel=False)
    return SingleTaskGP(x_ND, y_N1, covar_module=kernel, outcome_transform=None)


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, own random state, no warnings: the answer depends on nothing else in the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
