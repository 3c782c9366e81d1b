"""Fits the calibration `engine` of the shipped tables to what engines publish of whole models
(latency_tables/*/engine_speeds.csv), and the intervals of both calibrations.

    python tools/fit_engine.py            prints the constants, and the error of each row left out
    python tools/fit_engine.py --write    writes them into meta.yaml of the tables, too

One scale of the rows and the hosts' times are fitted to both GPUs at once (tools/engine_hosts.py).
The tables hold the host of the latest program of each engine, and that of any other. A network is
left out with all its rows, on both GPUs and under the names of all models of its shape. half_width
is the least that holds nine of ten left-out rows, each with the host of its program as far as other
networks tell it. A table without rows borrows the constants of h100_sxm, with a half-width for the
scale of another GPU beside it. What this is worth: experiments/engine_speeds.

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
from fit_kernels import fit as fit_paper
from fit_kernels import whole_models
from scipy.stats import t as student

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.latency.calibration import INTERVAL, Calibration, conformal_margin
from flashnas.latency.metrics import Estimate
from flashnas.latency.prediction import LatencyModel
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
    found = []
    for row in listed.itertuples():
        model = LatencyModel(table, row.workload, calibration=Calibration())
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


def half_width(models: Sequence[str], errors: np.ndarray) -> float:
    """Of the 90 % interval of a further model, from the errors of models that were left out: of
    Student's distribution, with as many degrees of freedom as there are models but one."""
    square = pd.Series(errors**2).groupby(list(models)).mean()
    return float(student.ppf((1 + INTERVAL) / 2, len(square) - 1) * np.sqrt(square.mean()))


def variant_errors() -> dict[str, float]:
    """Mean error of the rule for a variant: rows of h100_sxm from those of h200_sxm."""
    fast, slow = LatencyTable.load("h200_sxm"), LatencyTable.load("h100_sxm")
    gap = 1e6 / slow.device.bandwidth_bytes_s - 1e6 / fast.device.bandwidth_bytes_s
    errors = {}
    for kind in ("gemm", "attention_decode"):
        keys = [name for name in fast.frames[kind] if name in ("m", "n", "k", "dtype", "heads")]
        keys += [n for n in fast.frames[kind] if n in ("kv_heads", "head_dim", "batch", "context")]
        keys += [n for n in fast.frames[kind] if n in ("window", "stack")]
        both = fast.frames[kind].merge(slow.frames[kind], on=keys, suffixes=("_fast", "_slow"))
        both = both[both["dtype"].astype(str) == "bfloat16"] if "dtype" in both else both
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


def paper_of(table: LatencyTable) -> tuple[dict[str, Any], str]:
    """The entry of h100_sxm, whose models table 6 of the paper has, and the errors of these."""
    known = whole_models(table)
    found = fit_paper(table, known)
    errors, lines = np.log1p(found.left_out), []
    widths = {}
    for metric, chosen in (("latency_s", ~found.rates), ("throughput_tok_s", found.rates)):
        width = half_width(list(known["model"][chosen]), errors[chosen])
        widths[metric] = round(width, 3)
        inside = np.abs(errors[chosen]) <= width
        relative = np.abs(found.left_out[chosen])
        lines.append(f"paper, {metric}: 90 % interval x/ {np.exp(width):.2f}")
        for model, error, held in zip(known["model"][chosen], errors[chosen], inside, strict=True):
            lines.append(f"  {model:<20}{np.expm1(error):>+8.1%}{' ' if held else '*'}")
        lines.append(
            f"  mean error {relative.mean():.1%}, largest {relative.max():.1%};"
            f" {inside.sum()} of {len(inside)} inside, half-width {np.sinh(width):.1%}"
        )
    steps = 1000 * known["latency_s"][~found.rates] / 8192
    kinds: dict[str, float] = {}
    for name in known["model"][~found.rates]:
        model = LatencyModel(table, "decode-8k", calibration=Calibration())
        shares = derived_shares(model.estimate(load_architecture(name)))
        kinds = {kind: max(share, kinds.get(kind, 0.0)) for kind, share in shares.items()}
    relative = np.abs(found.left_out[~found.rates])
    return {
        **found.to_dict(),
        "attention_blocks": round(found.correction.attention_blocks),
        "half_width": widths["latency_s"],
        "batched_half_width": widths["throughput_tok_s"],
        "step_ms": [round(float(steps.min()), 2), round(float(steps.max()), 2)],
        "kinds": {kind: round(share, 3) for kind, share in sorted(kinds.items())},
        "left_out_mean_error": round(float(relative.mean()), 3),
        "left_out_max_error": round(float(relative.max()), 3),
        "fitted_on": "whole_models.csv and whole_throughput.csv (arXiv 2511.18890, table 6)",
        "reproduce": REPRODUCE,
    }, "\n".join(lines)


def borrowed(entry: dict[str, Any], width: float, **own: Any) -> dict[str, Any]:
    """The entry of a table without rows: the constants of LENDER, and `own`."""
    kept = {
        key: value
        for key, value in entry.items()
        if key not in ("left_out_mean_error", "left_out_max_error", "batched_half_width")
    }
    return {
        **kept,
        **own,
        "half_width": round(width, 3),
        "borrowed": LENDER,
        "fitted_on": f"no whole model on this device: the constants of {LENDER}",
    }


def borrowed_widths(rows: Sequence[Speed], hosts: Hosts, width: float) -> dict[str, float]:
    """Half-widths of a table without rows, by calibration. engine: what the scale of a further GPU
    may differ by, Student's of those of FITTED, beside `width`. paper, which knows no host: with it
    nine of ten rows of other GPUs lie around the prediction with the host of the tables."""
    scales = [fit([row for row in rows if row.table == name], hosts).scale for name in FITTED]
    count = len(scales)
    further = student.ppf((1 + INTERVAL) / 2, count - 1) * np.sqrt(1 + 1 / count)
    errors = [error_of(row, hosts.before(row.table)) for row in rows if row.table != LENDER]
    return {
        "engine": width + float(further * np.log(scales).std(ddof=1)),
        "paper": float(conformal_margin(list(np.abs(np.log1p(errors))))),
    }


def fitted() -> tuple[dict[str, dict[str, Any]], dict[str, float], str]:
    """The entries `engine` of FITTED, the half-widths of tables that borrow, by calibration, and
    the report."""
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
    lent = borrowed_widths(rows, hosts, width)
    lines.append(f"borrowed: half-widths {lent}")
    return entries, lent, "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Print the fits, and with --write keep them."""
    tables = {name: LatencyTable.load(name) for name in (*FITTED, "h200_sxm", "l40s")}
    engine, lent, engine_report = fitted()
    paper, paper_report = paper_of(tables[LENDER])
    for kind, error in variant_errors().items():
        print(f"rule for a variant, {kind}: mean error {error:.1%}")
    print(f"{paper_report}\n{engine_report}")
    for name, table in tables.items():
        blocks = table.calibrated("paper").attention_blocks
        entries = {
            "engine": engine.get(name) or borrowed(engine[LENDER], lent["engine"]),
            "paper": paper
            if name == LENDER
            else borrowed(paper, lent["paper"], attention_blocks=int(blocks)),
        }
        print(f"{name}: {entries}")
        if "--write" in arguments:
            with edited_meta(table.path) as meta:
                meta["calibration"] = entries


if __name__ == "__main__":
    main(sys.argv[1:])
