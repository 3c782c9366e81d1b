"""Does the interval of one program hold networks that nobody timed in it? See README.md.

python experiments/serving/engine_speeds.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from engine_hosts import Hosts, Speed
from fit_engine import FITTED, networks_of, speeds, width_of, without

from flashnas.base.text import columns
from flashnas.latency.table import LatencyTable

SHORT = 1.0, 4.0  # ms of a step, on the H100
Fits = dict[frozenset[str], Hosts]


def step_ms(row: Speed) -> float:
    return row.measured_ms / (row.workload.generated_tokens if row.metric == "latency_ms" else 1)


def left_out(rows: Sequence[Speed], fits: Fits) -> np.ndarray:
    """Of each row: relative error, whether the interval holds it, and its half-width, shape [rows, 3].
    Neither the hosts nor the half_width know the network of the row: half_width comes from the rows
    of other networks, each by a fit without both."""
    widths = {
        network: width_of(
            [row for row in rows if row.network != network],
            {other: fits[frozenset((network, other))] for other in networks_of(rows)},
        )
        for network in networks_of(rows)
    }
    found = []
    for row in rows:
        hosts = fits[frozenset((row.network,))]
        value, lower, upper = row.predicted(hosts.of(row, widths[row.network]))
        inside = lower <= row.measured_ms <= upper
        found.append((value / row.measured_ms - 1, inside, (upper - lower) / value / 2))
    return np.array(found)


def line(name: str, found: np.ndarray) -> tuple[str, ...]:
    errors, inside, widths = found.T
    texts = f"{inside.mean():.0%}", f"{np.median(widths):.1%}", f"{np.abs(errors).mean():.1%}"
    return (name, str(len(found)), *texts)


def main() -> None:
    rows = [row for name in FITTED for row in speeds(LatencyTable.load(name))]
    one_or_two = [some for count in (1, 2) for some in combinations(networks_of(rows), count)]
    fits = {frozenset(some): without(rows, *some) for some in one_or_two}
    sxm = np.array([row.table == "h100_sxm" for row in rows])
    short = sxm & np.array([SHORT[0] <= step_ms(row) <= SHORT[1] for row in rows])
    lines = [("left out", "rows", "inside", "half-width", "mean error")]
    found = left_out(rows, fits)
    lines.append(line("all", found))
    lines.append(line("H100", found[sxm]))
    lines.append(line("H100, steps of 1 to 4 ms", found[short]))
    print("\n".join(columns(lines, (0,))))
    for row, (error, inside, width) in zip(rows, found, strict=True):
        text = f"{row.table} {row.model} {' '.join(row.program)} {row.workload.name}"
        print(f"{text}: {error:+.1%}, half-width {width:.1%}{'' if inside else ', outside'}")


if __name__ == "__main__":
    main()
