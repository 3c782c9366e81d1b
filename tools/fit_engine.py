"""Fits the calibration `engine` of the shipped tables to what engines publish of whole models
(latency_tables/*/engine_speeds.csv), and its interval.

    python tools/fit_engine.py            prints the constants, and the error of each row left out
    python tools/fit_engine.py --write    writes them into meta.yaml of the tables, too

One scale of the rows and the hosts' times are fitted to both GPUs at once (tools/engine_hosts.py).
The tables hold the host of the latest program of each engine, and that of any other. A network is
left out with all its rows, on both GPUs and under the names of all models of its shape. half_width
is the least that holds nine of ten left-out rows, each with the host of its program as far as other
networks tell it. A table without rows borrows the constants of h100_sxm, with a half-width for the
scale of another GPU beside it. What this is worth: experiments/serving/engine_speeds.py.

A row of a variant of a GPU without a table (H100 PCIe) takes the kernels of the table plus
bytes x (1 / bandwidth of the variant - 1 / bandwidth of the table): time grows in proportion to the
bytes beyond a constant. The same rule, held against two shipped tables of one chip with two
memories, makes the rows of h100_sxm from those of h200_sxm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from engine_hosts import OVERLAP, Hosts, Speed, fit
from scipy.stats import t as student

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.latency.calibration import INTERVAL, Calibration, conformal_margin
from flashnas.latency.metrics import Estimate
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.schema import KINDS
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import edited_meta
from flashnas.operators.kernel import Load
from flashnas.operators.kernel_kinds import GEMM, KERNEL_KINDS

SPEEDS = "engine_speeds.csv"
FITTED = ("h100_sxm", "a100_sxm")  # tables with such rows
LENDER = "h100_sxm"
REPRODUCE = "python tools/fit_engine.py --write"
FITTED_ON = f"{SPEEDS} of {' and '.join(FITTED)}"


def speeds(table: LatencyTable) -> list[Speed]:
    """The rows of a table's list."""
    listed = pd.read_csv(table.path / SPEEDS, comment="#")
    models = {
        load: LatencyModel(table, load, calibration=Calibration()) for load in {*listed["workload"]}
    }
    found = []
    for row in listed.itertuples():
        model = models[row.workload]
        architecture = load_architecture(row.architecture)
        estimate = model.estimate(architecture)
        step_us = 1000 * estimate.tpot_ms
        if row.bandwidth_gb_s > 0:
            own = table.device.bandwidth_bytes_s
            step_us += step_bytes(model, architecture) * 1e6 * (1e-9 / row.bandwidth_gb_s - 1 / own)
        found.append(
            Speed(
                table=table.name,
                model=row.model,
                network=row.architecture,
                program=(row.engine, row.version, row.serving),
                workload=model.workload,
                metric=row.metric,
                measured_ms=row.value,
                prefill_us=1000 * estimate.ttft_ms,
                step_us=step_us,
                derived=derived_shares(estimate),
            )
        )
    return found


def derived_shares(estimate: Estimate) -> dict[str, float]:
    """Kind of kernel of a decode step -> share of the step that was derived."""
    steps = [entry for entry in estimate.breakdown if entry["phase"] == "decode"]
    total = sum(entry["ms"] for entry in steps)
    shares = dict.fromkeys((entry["kernel"] for entry in steps), 0.0)
    for entry in steps:
        shares[entry["kernel"]] += entry["ms"] / total * (entry["source"] == "derived")
    return shares


def step_bytes(model: LatencyModel, a: Architecture) -> float:
    """That the kernels of a decode step move."""
    batch = model.batch(a)
    seen = next(seen for phase, seen, _ in model.costs.phases(a.meta_tokens) if phase == "decode")
    load = Load("decode", batch, 1, float(seen.mean()))
    calls = [GEMM.call("head", n=a.vocab, k=a.hidden)]
    for spec in a.operators:
        calls += spec.kernels(a.hidden, "decode")
    return sum(
        call.kind.bytes_moved(call, load, model.costs.dtype_bytes)
        for call in calls
        if call.kind is not KERNEL_KINDS["pointwise"]
    )


def networks_of(rows: Iterable[Speed]) -> list[str]:
    return list(dict.fromkeys(row.network for row in rows))


def without(rows: Sequence[Speed], *networks: str) -> Hosts:
    """The fit to the rows of other networks."""
    return fit(row for row in rows if row.network not in networks)


def beyond(row: Speed, hosts: Hosts) -> float:
    """The least half_width with which the interval holds the row: what its host does not explain."""
    value, lower, upper = row.predicted(hosts.of(row))
    error = float(np.log(row.measured_ms / value))
    by_host = np.log(upper / value if error > 0 else lower / value)
    return float(np.sqrt(max(error**2 - by_host**2, 0.0)))


def width_of(rows: Sequence[Speed], fits: Mapping[str, Hosts]) -> float:
    """That holds nine of ten of these rows, by the fits without their networks."""
    return conformal_margin([beyond(row, fits[row.network]) for row in rows])


def variant_errors() -> dict[str, float]:
    """Mean error of the rule for a variant: rows of h100_sxm from those of h200_sxm."""
    fast, slow = LatencyTable.load("h200_sxm"), LatencyTable.load("h100_sxm")
    gap = 1e6 / slow.device.bandwidth_bytes_s - 1e6 / fast.device.bandwidth_bytes_s
    errors = {}
    for kind in ("gemm", "attention_decode"):
        keys = [*KINDS[kind], "dtype", "stack"]
        both = fast.frames[kind].merge(slow.frames[kind], on=keys, suffixes=("_fast", "_slow"))
        both = both[both["dtype"] == "bfloat16"]
        if kind == "gemm":
            both = both[both["m"] <= 32]
            moved = 2 * (both["n"] * both["k"] + both["m"] * (both["n"] + both["k"]))
        else:
            both = both[both["window"] == 0]
            moved = 4 * both["batch"] * both["context"] * both["kv_heads"] * both["head_dim"]
        made = both["latency_us_fast"] + gap * moved
        errors[kind] = float((made / both["latency_us_slow"] - 1).abs().mean())
    return errors


def error_of(row: Speed, constants: Calibration) -> float:
    """Relative; positive where the prediction is too slow."""
    return row.predicted(constants)[0] / row.measured_ms - 1


def engine_of(
    rows: Sequence[Speed], hosts: Hosts, errors: np.ndarray, half_width: float
) -> dict[str, Any]:
    """The entry of a table with these rows, for meta.yaml. errors: of each under the fit without
    its network, with the host of its program."""
    steps = [
        row.measured_ms / (row.workload.generated_tokens if row.metric == "latency_ms" else 1)
        for row in rows
        if row.metric != "ttft_ms"
    ]
    kinds = sorted({kind for row in rows for kind in row.derived})
    return {
        "step_scale": round(hosts.scale, 3),
        "hosts": {
            name: {"us": host.us, "range_us": [*host.range_us], "program": host.program}
            for name, host in hosts.hosts(rows[0].table).items()
        },
        "overlap": OVERLAP,
        "half_width": round(half_width, 3),
        "step_ms": [round(min(steps), 2), round(max(steps), 2)],
        "kinds": {
            kind: round(max(row.derived.get(kind, 0.0) for row in rows), 3) for kind in kinds
        },
        "left_out_mean_error": round(float(np.abs(errors).mean()), 3),
        "left_out_max_error": round(float(np.abs(errors).max()), 3),
        "fitted_on": FITTED_ON,
        "reproduce": REPRODUCE,
    }


def borrowed(entry: dict[str, Any], width: float) -> dict[str, Any]:
    """The entry of a table without rows: the constants of LENDER."""
    kept = {key: value for key, value in entry.items() if not key.startswith("left_out")}
    return {
        **kept,
        "half_width": round(width, 3),
        "borrowed": LENDER,
        "fitted_on": f"no whole model on this device: the constants of {LENDER}",
    }


def borrowed_width(rows: Sequence[Speed], hosts: Hosts, width: float) -> float:
    """Half-width of a table without rows: what the scale of a further GPU may differ by, Student's of
    those of FITTED, beside `width`."""
    scales = [fit([row for row in rows if row.table == name], hosts).scale for name in FITTED]
    count = len(scales)
    further = student.ppf((1 + INTERVAL) / 2, count - 1) * np.sqrt(1 + 1 / count)
    return width + float(further * np.log(scales).std(ddof=1))


def fitted() -> tuple[dict[str, dict[str, Any]], float, str]:
    """The entries `engine` of FITTED, the half-width of tables that borrow, and the report."""
    by_table = {name: speeds(LatencyTable.load(name)) for name in FITTED}
    rows = [row for listed in by_table.values() for row in listed]
    hosts = fit(rows)
    fits = {network: without(rows, network) for network in networks_of(rows)}
    width = width_of(rows, fits)
    errors = np.array([error_of(row, fits[row.network].of(row)) for row in rows])
    lines = [
        f"scale {hosts.scale:.3f}, programs x/ {np.exp(hosts.spread):.2f}",
        *(f"hosts beside {table}: {np.exp(mean):.2f} ms" for table, mean in hosts.means.items()),
    ]
    lines += [
        f"  {' '.join(program):<42}{mean:.2f} ms ({lower:.2f} to {upper:.2f})"
        for program, logs in hosts.of_program.items()
        for mean, lower, upper in [np.exp(logs)]
    ]
    entries = {
        name: engine_of(listed, hosts, errors[[row.table == name for row in rows]], width)
        for name, listed in by_table.items()
    }
    lent = borrowed_width(rows, hosts, width)
    lines.append(f"borrowed: half-width {lent}")
    return entries, lent, "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Print the fits, and with --write keep them."""
    engine, lent, report = fitted()
    for kind, error in variant_errors().items():
        print(f"rule for a variant, {kind}: mean error {error:.1%}")
    print(report)
    for name in (*FITTED, "h200_sxm", "l40s"):
        entry = engine.get(name) or borrowed(engine[LENDER], lent)
        print(f"{name}: {entry}")
        if "--write" in arguments:
            with edited_meta(LatencyTable.load(name).path) as meta:
                meta["calibration"]["engine"] = entry


if __name__ == "__main__":
    main(sys.argv[1:])
