"""Fits the calibration `paper` (latency/calibration.py) to whole models that others measured.

Reproduce the constants of a shipped table (prints them with the leave-one-out errors):

    python tools/fit_kernels.py h100_sxm
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture.source import load_architecture
from flashnas.base.errors import FlashnasError, TableError
from flashnas.latency.calibration import Calibration, heads
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import PAPER
from flashnas.operators.kernel_kinds import kind_of_rows

# Constants that are fitted; attention without a scale of its own is scaled like the rest.
FITTED = ("scale", "gap_us", "attention_us", "attention_slowdown", "head_dim_power")
ROUNDS = 4  # of blocks of threads; a rate with more of them tells attention_filled alone
WHOLE_MODELS = "whole_models.csv"  # in the table's folder: model, workload, latency_s
WHOLE_THROUGHPUT = "whole_throughput.csv"  # model, workload, throughput_tok_s
START = Calibration(
    scale=1.1,
    gap_us=1.0,
    attention_us=10.0,
    attention_slowdown=3.0,
    head_dim_power=0.5,
)
FILLED = 3.0  # attention_filled is looked for from here
THROUGHPUT_WEIGHT = 0.5  # of an error: the real batch of a measured rate is not known


@dataclass(frozen=True)
class Fit:
    """The constants, and the errors of each model under the fit to the other models, in the order
    of `measured`: relative, of the time or the rate that was measured."""

    correction: Calibration
    measured: pd.DataFrame
    left_out: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Which rows are rates, shape [rows]."""
        return self.measured["throughput_tok_s"].notna().to_numpy()

    def to_dict(self) -> dict[str, Any]:
        """Ready for meta.yaml."""
        return {
            name: round(getattr(self.correction, name), 3) for name in (*FITTED, "attention_filled")
        }


@dataclass(frozen=True)
class Features:
    """What a step of a model consists of; microseconds.

    Args:
        generated: tokens.
        batch: sequences.
        fixed_ms: of the request, which no constant touches.
        scaled_us: of kernels that `scale` corrects.
        launches: kernels of a step.
        attention: (time, time of its bytes at the device's bandwidth, head_dim, sequences x
            key-value heads) of attention kernels, and how many have it.
        prefill_ms: the part of fixed_ms that reads the prompt.
    """

    generated: int
    batch: int
    fixed_ms: float
    scaled_us: float
    launches: int
    attention: Mapping[tuple[float, float, int, int], int]
    prefill_ms: float

    def latency_ms(self, correction: Calibration) -> float:
        """Of the request."""
        step_us = (
            correction.scale * self.scaled_us
            + correction.gap_us * self.launches
            + sum(count * correction.attention(*kernel) for kernel, count in self.attention.items())
        )
        return self.fixed_ms + self.generated * step_us / 1000

    def rate(self, correction: Calibration) -> float:
        """Tokens per second of all sequences; the prompt is not counted."""
        step_ms = (self.latency_ms(correction) - self.prefill_ms) / self.generated
        return 1000 * self.batch / step_ms


def features(table: LatencyTable, model: str, workload: str) -> Features:
    """Of one model under one workload."""
    bare = LatencyModel(table, workload, calibration=Calibration())
    architecture = load_architecture(model)
    estimate = bare.estimate(architecture)
    generated, batch = bare.workload.generated_tokens, estimate.batch
    fixed_ms = scaled_ms = prefill_ms = 0.0
    launches = 0
    for entry in estimate.breakdown:
        found = kind_of_rows(entry["kernel"])
        correction = found[0].correction if found else "scale"
        launches += entry["phase"] == "decode"
        prefill_ms += entry["ms"] if entry["phase"] == "prefill" else 0.0
        if entry["phase"] != "decode" or not correction:
            fixed_ms += entry["ms"]
        elif correction == "scale":
            scaled_ms += entry["ms"]
    attention = Counter[tuple[float, float, int]]()
    for phase, seen, _ in bare.costs.phases(architecture.meta_tokens):
        for spec in architecture.operators if phase == "decode" else ():
            for call in spec.kernels(architecture.hidden, phase):
                if call.kind.correction == "attention":
                    time = bare.costs.kernels.time(call, phase, batch, seen)
                    attention[
                        time.us, bare.costs.bytes_us(call, batch, seen), *heads(call, batch)
                    ] += 1
    return Features(
        generated,
        batch,
        fixed_ms,
        1000 * scaled_ms / max(generated, 1),
        launches,
        attention,
        prefill_ms,
    )


def fit(table: LatencyTable | str, measured: pd.DataFrame) -> Fit:
    """Least squares of the relative error over whole models.

    Args:
        table: or its name or folder.
        measured: columns model (anything that load_architecture accepts), workload, and latency_s
            or throughput_tok_s.

    Raises:
        TableError: not more rows than constants.
    """
    if len(measured) <= len(FITTED):
        raise TableError(
            f"calibration {PAPER} needs at least {len(FITTED) + 1} measurements of whole models;"
            f" got {len(measured)}"
        )
    table = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    measured = measured.reindex(
        columns=["model", "workload", "latency_s", "throughput_tok_s"]
    ).reset_index(drop=True)
    parts = [
        features(table, model, workload)
        for model, workload in zip(measured["model"], measured["workload"], strict=True)
    ]
    rates = measured["throughput_tok_s"].notna().to_numpy()
    weights = np.where(rates, THROUGHPUT_WEIGHT, 1.0)
    blocks = table.calibrated(PAPER).attention_blocks
    rounds = np.array(
        [
            max((pairs for *_, pairs in part.attention), default=0) / (blocks or np.inf)
            for part in parts
        ]
    )
    target = np.where(rates, measured["throughput_tok_s"], 1000 * measured["latency_s"])

    def ratios(correction: Calibration) -> np.ndarray:
        return (
            np.array(
                [
                    part.rate(correction) if rate else part.latency_ms(correction)
                    for part, rate in zip(parts, rates, strict=True)
                ]
            )
            / target
        )

    def solve(kept: np.ndarray) -> Calibration:
        few = kept & (rounds < ROUNDS)
        constants = _least_squares(
            FITTED, START, lambda constants: (np.log(ratios(constants)) * weights)[few]
        )
        if not blocks:
            return constants
        return _least_squares(
            ("attention_filled",),
            replace(constants, attention_blocks=blocks),
            lambda constants: np.log(ratios(constants))[kept & rates],
        )

    models = measured["model"].to_numpy()
    left_out = np.empty(len(measured))
    for model in dict.fromkeys(models):  # with all that was measured of it
        left_out[models == model] = ratios(solve(models != model))[models == model] - 1
    return Fit(solve(np.ones(len(models), bool)), measured, left_out)


def _least_squares(
    names: Sequence[str], start: Calibration, errors: Callable[[Calibration], np.ndarray]
) -> Calibration:
    """`start` with the named constants, at least 0, for which the errors are smallest."""
    from scipy.optimize import least_squares  # slow to import; estimates do not need it

    def constants(values: Sequence[float]) -> Calibration:
        return replace(start, **dict(zip(names, map(float, values), strict=True)))

    first = [getattr(start, name) or FILLED for name in names]
    return constants(
        least_squares(
            lambda values: errors(constants(values)),
            first,
            bounds=(0, np.inf),
            x_scale="jac",
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        ).x
    )


def whole_models(table: LatencyTable) -> pd.DataFrame:
    """What the folder of a table holds about whole models."""
    return pd.concat(
        [
            pd.read_csv(table.path / name, comment="#")
            for name in (WHOLE_MODELS, WHOLE_THROUGHPUT)
            if (table.path / name).is_file()
        ],
        ignore_index=True,
    )


def main(arguments: Sequence[str]) -> None:
    """Print the fits of one table to the whole models in its folder."""
    table = LatencyTable.load(arguments[0])
    measured = whole_models(table)
    result = fit(table, measured)
    print(f"{result.to_dict()}\n\nerror when left out")
    for i, (model, workload) in enumerate(
        zip(measured["model"], measured["workload"], strict=True)
    ):
        print(f"{model:<20}{workload:<16}{result.left_out[i]:>+10.1%}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FlashnasError as error:
        sys.exit(str(error))
