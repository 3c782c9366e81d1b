"""The loss of a plain transformer by its size, its shape and its tokens, from trainings that others did in full.

    loss = E + (a N^(-alpha / delta) + b / D)^delta + c (r - r0)^2

N: parameters without embeddings, in 1e9. D: training tokens, in 1e11. r: ln(width / depth), where the depth is
N / (12 width^2): the blocks of attention and feed-forward that so many parameters make. The shipped constants come from
19 shapes of arXiv 2502.06857 (Gemstones), 48M to 1B parameters, trained on 11 to 350 billion tokens.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from flashnas.base.errors import ConfigError

SHAPES = Path(__file__).parent / "data" / "published_shapes.csv"
START = (1.8, 0.74, 0.17, 0.37, 0.4, 3.6, 0.013)  # where the fit begins
COOLED, METRIC = "_cool_", "dolma_val_loss"       # groups whose learning rate was annealed: what a user will do
OUTLIER_NATS = 0.01                               # beyond which a shape pulls less (soft L1)
PARAMETERS, TOKENS = 1e9, 1e11                    # units of N and D
RANGE = (7e9, 3.5e11)                             # tokens: fewer or more count as these, which publications have


@dataclass(frozen=True)
class ShapeRow:
    """One published training of a plain transformer. params: without embeddings. depth: blocks."""

    group: str
    source: str
    params: float
    depth: int
    width: int
    tokens: float
    metric: str
    loss: float


def read_shapes(path: str | Path = SHAPES) -> list[ShapeRow]:
    """The rows of a CSV with the columns group, source, params_nonemb, depth, width, tokens, metric and value.

    Raises:
        ConfigError: with file, line, rule and value.
    """
    rows = []
    with Path(path).open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                rows.append(ShapeRow(line["group"], line["source"], float(line["params_nonemb"]), int(line["depth"]),
                                     int(line["width"]), float(line["tokens"]), line["metric"], float(line["value"])))
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{path}:{number}: cannot be read as a training of a shape: {error}") from None
            if not line["source"]:
                raise ConfigError(f"{path}:{number}: source must not be empty")
    return rows


def aspect(params: np.ndarray, width: np.ndarray) -> np.ndarray:
    """r: ln(width / depth) [N]. params [N]: without embeddings."""
    return np.log(12 * np.asarray(width, float) ** 3 / np.asarray(params, float))


@dataclass(frozen=True)
class Law:
    """The constants of the law; `loss` gives nats per token."""

    e: float
    a: float
    alpha: float
    b: float
    delta: float
    r0: float
    c: float

    def loss(self, params: np.ndarray, tokens: np.ndarray | float, width: np.ndarray) -> np.ndarray:
        """Args: params [N] without embeddings, tokens [N] of the training, width [N]. Returns: nats per token [N]."""
        n, d = np.asarray(params, float) / PARAMETERS, np.clip(np.asarray(tokens, float), *RANGE) / TOKENS
        by_size = (self.a * n ** (-self.alpha / self.delta) + self.b / d) ** self.delta
        return self.e + by_size + self.c * (aspect(params, width) - self.r0) ** 2


def fit_law(rows: Sequence[ShapeRow]) -> Law:
    """The law of the annealed trainings among the rows, by robust least squares."""
    rows = annealed(rows)
    params, tokens, width, loss = (np.array([getattr(row, name) for row in rows], float)
                                   for name in ("params", "tokens", "width", "loss"))

    def law_of(x: np.ndarray) -> Law:
        return Law(x[0], np.exp(x[1] / x[4]), x[2], np.exp(x[3] / x[4]), x[4], x[5], x[6])

    start = np.array(START)
    start[[1, 3]] = START[4] * np.log([START[1], START[3]])  # a and b enter by their logarithms
    found = least_squares(lambda x: law_of(x).loss(params, tokens, width) - loss, start, loss="soft_l1",
                          f_scale=OUTLIER_NATS)
    return law_of(found.x)


def annealed(rows: Sequence[ShapeRow]) -> list[ShapeRow]:
    """The rows that the law is fitted to."""
    return [row for row in rows if COOLED in row.group and row.metric == METRIC]


def constants(law: Law) -> dict[str, float]:
    """Name -> value, rounded to what the data carry."""
    return dict(zip(Law.__dataclass_fields__, map(float, astuple(law)), strict=True))
