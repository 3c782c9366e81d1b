"""One correction per table: from the sum of kernels measured alone to a whole model.

A kernel in a hot loop finds part of its weights or state in the cache, and no gap before it; in a model it does not.
`fit` finds the two constants from whole models that somebody measured; they stand under `calibration` in meta.yaml:

    decode step = scale x (times of kernels from rows) + pointwise kernels + gap_us x (number of kernels)

Reproduce the constants of a shipped table (prints them with the leave-one-out errors):

    python -m flashnas.latency.calibration h100_sxm
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture_source import load_architecture
from flashnas.errors import FlashnasError, TableError
from flashnas.latency.answer import Answer
from flashnas.latency.table import LatencyTable

WHOLE_MODELS = "whole_models.csv"  # in the table's folder: model, workload, latency_s


@dataclass(frozen=True)
class Calibration:
    """Applied to the kernels of a decode step; rows of whole operators need none. width: of the bounds, as a share of
    what the correction adds."""

    scale: float = 1.0
    gap_us: float = 0.0
    width: float = 0.0

    @classmethod
    def of(cls, table: LatencyTable) -> Calibration:
        """From meta.yaml; raises TableError if an entry is no number of at least 0."""
        entry = table.calibration
        values = {key: entry[key] for key in ("scale", "gap_us", "width") if key in entry}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise TableError(f"{table.path / 'meta.yaml'}: calibration.{key} must be a number of at least 0;"
                                 f" got {value!r}")
        return cls(**values)

    def added(self, answers: Sequence[Answer]) -> Answer | None:
        """What the correction adds to these kernels of one decode step; None if nothing."""
        rows_us = sum(answer.us for answer in answers if answer.source != "roofline")
        us = (self.scale - 1) * rows_us + self.gap_us * len(answers)
        if not us:
            return None
        lower, upper = sorted((us * (1 - self.width), us * (1 + self.width)))
        return Answer(us, lower, upper, "derived")


@dataclass(frozen=True)
class Fit:
    """The constants, and relative errors of each model when the fit left it out."""

    calibration: Calibration
    models: tuple[str, ...]
    left_out: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {"scale": round(self.calibration.scale, 3), "gap_us": round(self.calibration.gap_us, 2),
                "left_out_mean_error": round(float(np.abs(self.left_out).mean()), 3),
                "left_out_max_error": round(float(np.abs(self.left_out).max()), 3)}


def fit(table: LatencyTable | str, measured: pd.DataFrame) -> Fit:
    """Least squares of the relative error over whole models. `measured`: columns model (anything that
    load_architecture takes), workload (nothing read: prompt 0), latency_s. Raises TableError below 3 models."""
    from flashnas.latency.model import LatencyModel

    if len(measured) < 3:
        raise TableError(f"calibration needs at least 3 whole models; got {len(measured)}")
    table = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    rows = []
    for model, workload in zip(measured["model"], measured["workload"], strict=True):
        bare = LatencyModel(table, workload, calibrated=False)
        entries = [entry for entry in bare.estimate(load_architecture(model)).breakdown if entry["phase"] == "decode"]
        by_row = sum(entry["ms"] for entry in entries if entry["source"] != "roofline")
        pointwise = sum(entry["ms"] for entry in entries if entry["source"] == "roofline")
        rows.append((by_row, len(entries) * bare.workload.generated_tokens / 1000, pointwise))
    features = np.array(rows)
    ms = 1000 * measured["latency_s"].to_numpy(float)

    def solve(kept: np.ndarray) -> np.ndarray:
        weight = 1 / ms[kept]
        left, right = features[kept, :2] * weight[:, None], (ms[kept] - features[kept, 2]) * weight
        return np.linalg.lstsq(left, right, rcond=None)[0]

    everyone = np.arange(len(ms))
    left_out = np.array([(features[i, :2] @ solve(everyone != i) + features[i, 2]) / ms[i] - 1 for i in everyone])
    scale, gap_us = solve(everyone >= 0)
    return Fit(Calibration(float(scale), float(gap_us)), tuple(measured["model"]), left_out)


def main(arguments: Sequence[str]) -> None:
    """Print the fit of one table to the whole models in its folder."""
    table = LatencyTable.load(arguments[0])
    result = fit(table, pd.read_csv(table.path / WHOLE_MODELS, comment="#"))
    print(result.to_dict())
    for model, error in zip(result.models, result.left_out, strict=True):
        print(f"{model:<16}{error:+.1%} when left out")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FlashnasError as error:
        sys.exit(str(error))
