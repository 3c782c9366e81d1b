"""What observed times say of networks that nobody timed. See README.md.

python experiments/observed_times/run.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.text import columns
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import load_workload
from flashnas.observations.correction import TimesCorrection
from flashnas.observations.times import ObservedTime
from flashnas.space import load_space

SPEEDS = "engine_speeds.csv"
WORKLOAD = "decode-8k"
# the table that predicts, and table and calibration that stand for the program
PROGRAMS = (
    ("h100_sxm", "a100_sxm", "engine"),
    ("h100_sxm", "l40s", "engine"),
    ("h100_sxm", "h100_sxm", "paper"),
)
COUNTS = (1, 3, 6, 12)  # networks that are timed
NETWORKS, DRAWS = 140, 20


def time_of(network: Architecture, workload: str, name: str, value: float) -> ObservedTime:
    return ObservedTime(
        operators="",
        network=network,
        workload=dataclasses.replace(load_workload(workload), name=""),
        program="program",
        milliseconds={name: value},
    )


def published(table: LatencyTable) -> dict[str, list[tuple[str, str, ObservedTime]]]:
    """Engine and version -> (model, workload, its published time), of those that are of the table's
    own device."""
    rows = pd.read_csv(table.path / SPEEDS, comment="#")
    found: dict[str, list[tuple[str, str, ObservedTime]]] = {}
    for row in rows[rows["bandwidth_gb_s"].isna()].itertuples():
        network = load_architecture(row.architecture)
        time = time_of(network, row.workload, row.metric, row.value)
        found.setdefault(f"{row.engine} {row.version}", []).append((row.model, row.workload, time))
    return found


def left_out(*, whole_models: bool) -> np.ndarray:
    """ln(observed / predicted) of the published times, shape [rows, 2]: by the table, and corrected by
    the other rows of the same engine; and whether the interval holds it. whole_models: by rows of
    other models alone."""
    result = []
    for name in ("h100_sxm", "a100_sxm"):
        table = LatencyTable.load(name)
        for rows in published(table).values():
            for row in rows:
                model, workload, time = row
                others = [
                    other for other in rows if (other[0] != model if whole_models else other != row)
                ]
                if others:
                    plain = LatencyModel(table, workload)
                    corrected = plain.corrected_by(
                        TimesCorrection(plain, [other[2] for other in others])
                    )
                    result.append(errors((plain, corrected), time))
    return np.array(result)


def errors(models: Iterable[LatencyModel], time: ObservedTime) -> list[float]:
    """Error and coverage by each model."""
    ((name, value),) = time.milliseconds.items()
    found: list[float] = []
    for model in models:
        estimate = model.estimate(time.network)
        lower, upper = estimate.bounds[name]
        found += [np.log(value / estimate.metric(name)), lower <= value <= upper]
    return found


def networks() -> list[Architecture]:
    space, rng = load_space("free"), np.random.default_rng(0)
    return [
        space.architecture(space.sample(rng), int(rng.choice(space.hidden_sizes)))
        for _ in range(NETWORKS)
    ]


def another(
    predicting: str, program: str, calibration: str, count: int, drawn: Sequence[Architecture]
) -> np.ndarray:
    """As `left_out`, of networks whose times in a program are another table's, of which `count` were
    timed."""
    plain = LatencyModel(predicting, WORKLOAD)
    values = LatencyModel(program, WORKLOAD, calibration=calibration).latencies(drawn)
    times = [
        time_of(network, WORKLOAD, "latency_ms", float(value))
        for network, value in zip(drawn, values, strict=True)
    ]
    result = []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(times))
        corrected = plain.corrected_by(TimesCorrection(plain, [times[i] for i in order[:count]]))
        result += [errors((plain, corrected), times[i]) for i in order[count : count + 20]]
    return np.array(result)


def line(name: str, timed: str, found: np.ndarray) -> tuple[str, ...]:
    root = np.sqrt(np.mean(found[:, [0, 2]] ** 2, axis=0))
    inside = found[:, [1, 3]].mean(axis=0)
    return (
        name,
        timed,
        str(len(found)),
        *(f"{value:.3f}" for value in root),
        *(f"{share:.0%}" for share in inside),
    )


def main() -> None:
    lines = [("times of", "known", "predicted", "table", "corrected", "inside", "inside")]
    for whole, words in ((True, "other models"), (False, "all other rows")):
        lines.append(line("engines, published", words, left_out(whole_models=whole)))
    drawn = networks()
    for predicting, program, calibration in PROGRAMS:
        for count in COUNTS:
            found = another(predicting, program, calibration, count, drawn)
            lines.append(line(f"{program} {calibration}, by {predicting}", f"{count}", found))
    print("\n".join(columns(lines, (0, 1))))


if __name__ == "__main__":
    main()
