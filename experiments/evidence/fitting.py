"""From published trainings to the constants of the full loss: what fit.py is made of.

The law of size and shape is fitted to the shapes of one publication. The spreads follow from the
restricted likelihood, in which the levels of the groups have no part, under weak log-normal priors.
Each publication has a reliability of its own, so that one with gaps that nobody else finds pulls
less.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares, minimize, minimize_scalar

from flashnas.architecture.notation import parse_operators
from flashnas.loss.composition import FEATURES, SILENT, Law, Rows, Table
from flashnas.loss.load import FFN_SHARES, SHAPES
from flashnas.loss.mix import mix_of, stacks
from flashnas.loss.model import (
    BETWEEN_SDS,
    EFFECTS,
    LAW_NATS,
    PRIOR_SDS,
    RELIABILITY_SD,
    SILENT_SDS,
    FullLoss,
    Spreads,
    contrasts,
    kernel,
)

START = (1.0, 1.2, 0.12, 3.6, 0.013, 1.0)  # of size and shape: where the fit begins
COOLED, METRIC = (
    "_cool_",
    "dolma_val_loss",
)  # groups whose learning rate was annealed: what a user will do
OUTLIER_NATS = 0.01  # beyond which a shape pulls less (soft L1)
# medians of the log-normal priors of the spreads, and the standard deviation of their logarithms
MEDIANS = {"effect": 0.06, "kind": 0.02, "residual": 0.02, "noise": 0.012}
FURTHEST = 4.0  # from there
SPREAD_SD = 1.0
# of the spreads of fidelity: that of a mix has, of 0.01, 0.015, 0.02, 0.025, 0.03 and 0.04, the best log
# score on the short trainings of ladders.py; and the median of the prior of that of a shape
OF_A_MIX, SHAPE_MEDIAN = 0.025, 0.02


@dataclass(frozen=True)
class ShapeRow:
    """One published training of a plain transformer. params: without embeddings. depth: blocks."""

    group: str
    source: str
    params: float
    depth: int
    width: int
    tokens: float
    loss: float


def read_shapes(path: Path = SHAPES) -> list[ShapeRow]:
    """The annealed trainings of a CSV with the columns group, source, params_nonemb, depth, width,
    tokens, metric and value: those that the law is fitted to."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            ShapeRow(
                line["group"],
                line["source"],
                float(line["params_nonemb"]),
                int(line["depth"]),
                int(line["width"]),
                float(line["tokens"]),
                float(line["value"]),
            )
            for line in csv.DictReader(file)
            if COOLED in line["group"] and line["metric"] == METRIC
        ]


def fit_law(rows: Sequence[ShapeRow], lengths: tuple[float, float, float]) -> Law:
    """The law of trainings: of size and shape by robust least squares.

    Args:
        rows: of one publication, whose slope over tokens is a factor of its own.
        lengths: slope, beta and rise of `fit_lengths`.
    """
    params, tokens, width, loss = (
        np.array([getattr(row, name) for row in rows], float)
        for name in ("params", "tokens", "width", "loss")
    )
    slope, beta, rise = lengths

    def law_of(x: np.ndarray) -> Law:
        return Law(*map(float, x[:5]), b=slope / beta, beta=beta, rise=rise)

    def residuals(x: np.ndarray) -> np.ndarray:
        law = law_of(x)
        return law.by_shape(params, width) + x[5] * law.by_tokens(params, tokens) - loss

    return law_of(least_squares(residuals, START, loss="soft_l1", f_scale=OUTLIER_NATS).x)


def ffn_rows(law: Law) -> Rows:
    """Transformers of one size whose parameters lie more or less in the feed-forward layers."""
    with FFN_SHARES.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    params, tokens = (
        np.array([float(line[name][:-1]) for line in lines]) * 1e9
        for name in ("params_nonemb", "tokens")
    )
    ratio = np.array([float(line["mlp_over_attention_params"]) for line in lines])
    table = Table.of(
        law,
        mix_of(stacks([parse_operators("a f")] * len(lines))),
        np.c_[params, params, ratio / (1 + ratio)],
        [float(line["width"]) for line in lines],
        tokens,
        [line["source"] for line in lines],
    )
    return Rows(
        **vars(table),
        nats=np.array([float(line["value"]) for line in lines]),
        level=np.array([line["group"] for line in lines], object),
        noise=np.full(len(lines), np.nan),
    )


def fit_spreads(rows: Rows, law: Law) -> Spreads:
    """The spreads by restricted maximum likelihood, under log-normal priors.

    Args:
        rows: what the model learns from.
        law: of size and shape.
    """
    names, publications = list(MEDIANS), sorted(set(rows.publication))
    centre = np.log([*MEDIANS.values(), *([1.0] * len(publications))])
    sds = torch.from_numpy(np.r_[[SPREAD_SD] * len(names), [RELIABILITY_SD] * len(publications)])
    of_levels = contrasts(rows.level)
    basis = torch.tensor(of_levels)
    x = np.array(rows.x)
    x[:, 0] -= LAW_NATS
    gaps = basis @ torch.tensor(rows.nats - x[:, 0] - x[:, 1])
    columns = (basis @ torch.tensor(x)).T
    effects = columns[[FEATURES.index(name) for name in EFFECTS]]
    silent = columns[len(FEATURES) :].T * torch.from_numpy(
        np.array([SILENT_SDS[name] for name in SILENT])
    )
    between = basis @ torch.tensor(
        x[:, : len(FEATURES)] * [BETWEEN_SDS.get(name, 0.0) for name in FEATURES]
    )
    shares = basis @ torch.tensor(rows.shares)
    alike = basis @ torch.tensor(kernel(rows, rows)) @ basis.T
    publication = rows.publication[np.abs(of_levels).argmax(axis=1)]
    same = torch.tensor(np.equal.outer(publication, publication))
    member = torch.tensor([publications.index(name) for name in publication])

    def cost(logs: torch.Tensor) -> torch.Tensor:
        value = dict(zip(names, torch.exp(logs), strict=False))
        law_effect = columns[:1] * PRIOR_SDS["law"]
        common = law_effect.T @ law_effect + value["effect"] ** 2 * effects.T @ effects
        own = silent @ silent.T + value["kind"] ** 2 * shares @ shares.T
        scale = torch.exp(logs[len(names) :])[member]
        noise = torch.diag((value["noise"] * scale) ** 2)
        prior = common + value["residual"] ** 2 * alike + same * (between @ between.T)
        prior = prior + torch.outer(scale, scale) * same * own
        root = torch.linalg.cholesky(prior + noise)
        weights = torch.linalg.solve_triangular(root, gaps[:, None], upper=False)
        penalty = 0.5 * (((logs - torch.tensor(centre)) / sds) ** 2).sum()
        return 0.5 * (weights**2).sum() + torch.log(torch.diagonal(root)).sum() + penalty

    def with_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        logs = torch.tensor(values, requires_grad=True)
        found = cost(logs)
        found.backward()
        return float(found.detach()), logs.grad.numpy()

    bounds = [(value - FURTHEST, value + FURTHEST) for value in centre]
    logs = minimize(with_gradient, centre, jac=True, method="L-BFGS-B", bounds=bounds).x
    value = dict(zip(names, map(float, np.exp(logs)), strict=False))
    return Spreads(
        common=dict.fromkeys(EFFECTS, value["effect"]),
        kind=value["kind"],
        residual=value["residual"],
        noise=value["noise"],
        reliability=dict(zip(publications, map(float, np.exp(logs[len(names) :])), strict=True)),
    )


def fit_fidelity(rows: Rows, short: Rows, spreads: Spreads, law: Law) -> Spreads:
    """The spreads with those of fidelity, all else as it is: of a mix OF_A_MIX, of a shape as short
    trainings of networks of many shapes ask for.

    Args:
        rows: what the model learns from.
        short: the short trainings, of a publication of their own.
    """
    joined = Rows.joined(rows, short)

    def with_shape(log: float) -> Spreads:
        fidelity = {"mix": OF_A_MIX, "shape": float(np.exp(log))}
        return dataclasses.replace(spreads, fidelity=fidelity)

    def cost(log: float) -> float:
        prior = 0.5 * ((log - middle) / SPREAD_SD) ** 2
        return FullLoss(joined, with_shape(log), law).cost + prior

    middle = float(np.log(SHAPE_MEDIAN))
    bounds = (middle - FURTHEST, middle + FURTHEST)
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return with_shape(float(found.x))
