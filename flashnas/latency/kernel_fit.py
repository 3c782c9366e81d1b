"""Finds the constants of `kernel_correction` from whole models that somebody measured.

Reproduce the constants of a shipped table (prints them with the leave-one-out errors):

    python -m flashnas.latency.kernel_fit h100_sxm
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture.source import load_architecture
from flashnas.base.errors import FlashnasError, TableError
from flashnas.latency.kernel_correction import FITTED, STACKS, WHOLE_MODELS, KernelCorrection, Stack
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.operators.kernel_kinds import kind_of_rows


@dataclass(frozen=True)
class Fit:
    """The constants, and the relative error of each model under the fit to the others, shape [models]."""

    stack: Stack
    correction: KernelCorrection
    models: tuple[str, ...]
    left_out: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {**{name: round(getattr(self.correction, name), 3) for name in FITTED[self.stack]},
                "left_out_mean_error": round(float(np.abs(self.left_out).mean()), 3),
                "left_out_max_error": round(float(np.abs(self.left_out).max()), 3)}


def features(table: LatencyTable, model: str, workload: str, stack: Stack) -> tuple[dict[str, float], float]:
    """-> (ms over the request that one unit of each fitted constant adds, ms that no constant touches)."""
    bare = LatencyModel(table, workload, stack=stack, calibrated=False)
    result, fixed = dict.fromkeys(FITTED[stack], 0.0), 0.0
    for entry in bare.estimate(load_architecture(model)).breakdown:
        found = kind_of_rows(entry["kernel"])
        constant = found[0].correction if found else "scale"
        if entry["phase"] != "decode" or not constant:
            fixed += entry["ms"]
        else:
            result[constant if constant in result else "scale"] += entry["ms"]
        if entry["phase"] == "decode":
            result["gap_us"] += bare.workload.generated_tokens / 1000
    return result, fixed


def fit(table: LatencyTable | str, measured: pd.DataFrame, stack: Stack = "fused") -> Fit:
    """Least squares of the relative error over whole models.

    Args:
        table: or its name or folder.
        measured: columns model (anything that load_architecture accepts), workload, latency_s.
        stack: whose constants are fitted.

    Raises:
        TableError: not more models than constants.
    """
    names = FITTED[stack]
    if len(measured) <= len(names):
        raise TableError(f"calibration of stack {stack} needs at least {len(names) + 1} whole models;"
                         f" got {len(measured)}")
    table = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    parts = [features(table, model, workload, stack)
             for model, workload in zip(measured["model"], measured["workload"], strict=True)]
    x = np.array([[part[name] for name in names] for part, _ in parts])
    fixed = np.array([rest for _, rest in parts])
    ms = 1000 * measured["latency_s"].to_numpy(float)

    def solve(kept: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(x[kept] / ms[kept, None], 1 - fixed[kept] / ms[kept], rcond=None)[0]

    everyone = np.arange(len(ms))
    left_out = np.array([(x[i] @ solve(everyone != i) + fixed[i]) / ms[i] - 1 for i in everyone])
    constants = dict(zip(names, map(float, solve(everyone >= 0)), strict=True))
    return Fit(stack, KernelCorrection(**constants), tuple(measured["model"]), left_out)


def main(arguments: Sequence[str]) -> None:
    """Print the fits of one table to the whole models in its folder."""
    table = LatencyTable.load(arguments[0])
    measured = pd.read_csv(table.path / WHOLE_MODELS, comment="#")
    fits = [fit(table, measured, stack) for stack in STACKS]
    for result in fits:
        print(f"{result.stack}: {result.to_dict()}")
    print(f"\n{'error when left out':<20}" + "".join(f"{result.stack:>10}" for result in fits))
    for i, model in enumerate(measured["model"]):
        print(f"{model:<20}" + "".join(f"{result.left_out[i]:>+10.1%}" for result in fits))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FlashnasError as error:
        sys.exit(str(error))
