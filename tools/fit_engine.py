"""Fits the calibration `engine` of the shipped tables to what engines publish of whole models
(latency_tables/*/engine_speeds.csv), and the intervals of both calibrations.

    python tools/fit_engine.py            prints the constants, and the error of each row left out
    python tools/fit_engine.py --write    writes them into meta.yaml of the tables, too

Two constants are fitted for each GPU (latency/calibration.py): least squares of the logarithm of
the error, in which each model counts once, however many rows it has. Of the overlaps 1, 1.5, 2,
2.5, 3, 4 and 8, the one is taken that leaves both GPUs within 25 %. A model is left out with all its
rows. A table without rows borrows the constants of h100_sxm, with an interval as wide as these miss
the models of a100_sxm.

A row of a variant of a GPU without a table (H100 PCIe) takes the kernels of the table plus
bytes x (1 / bandwidth of the variant - 1 / bandwidth of the table): time grows in proportion to the
bytes beyond a constant. The same rule, held against two shipped tables of one chip with two
memories, makes the rows of h100_sxm from those of h200_sxm.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from fit_kernels import fit as fit_paper
from fit_kernels import whole_models
from scipy.optimize import least_squares
from scipy.stats import t as student

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.latency.calibration import INTERVAL, Calibration
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
OVERLAP = 3.0  # 1: one after the other; infinite: the longer of host and device decides


@dataclass(frozen=True)
class Speed:
    """One row of the list: what the kernels take, in microseconds, and what was measured."""

    model: str
    workload: str
    metric: str
    measured_ms: float
    generated: int
    prefill_us: float
    step_us: float
    derived: dict[str, float]  # kind of kernel -> share of a step

    def predicted_ms(self, constants: Calibration) -> float:
        prefill_ms = constants.step_us(self.prefill_us) / 1000
        step_ms = constants.step_us(self.step_us) / 1000
        if self.metric == "ttft_ms":
            return prefill_ms
        return step_ms if self.metric == "tpot_ms" else prefill_ms + self.generated * step_ms

    def log_error(self, constants: Calibration) -> float:
        """Of the prediction; the measured time is above it where this is negative."""
        return float(np.log(self.predicted_ms(constants) / self.measured_ms))


def speeds(table: LatencyTable) -> list[Speed]:
    """The rows of a table's list."""
    listed = pd.read_csv(table.path / SPEEDS, comment="#")
    found = []
    for row in listed.itertuples():
        model = LatencyModel(table, row.workload, calibration=Calibration())
        architecture = load_architecture(row.architecture)
        estimate = model.estimate(architecture)
        step_us = 1000 * estimate.tpot_ms
        derived = derived_shares(estimate)
        if row.bandwidth_gb_s > 0:
            own = table.device.bandwidth_bytes_s
            step_us += step_bytes(model, architecture) * 1e6 * (1e-9 / row.bandwidth_gb_s - 1 / own)
        found.append(
            Speed(
                row.model,
                row.workload,
                row.metric,
                row.value,
                model.workload.generated_tokens,
                1000 * estimate.ttft_ms,
                step_us,
                derived,
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
    seen = next(seen for phase, seen, _ in model.phases(a.meta_tokens) if phase == "decode")
    load = Load("decode", batch, 1, float(seen.mean()))
    calls = [GEMM.call("head", n=a.vocab, k=a.hidden)]
    for spec in a.operators:
        calls += model.launched(spec, a.hidden, "decode")
    return sum(
        call.kind.bytes_moved(call, load, model.dtype_bytes)
        for call in calls
        if call.kind is not KERNEL_KINDS["pointwise"]
    )


def fit(rows: Sequence[Speed]) -> Calibration:
    """The constants with the smallest error."""
    count = pd.Series([row.model for row in rows]).value_counts()
    weights = np.array([count[row.model] ** -0.5 for row in rows])

    def constants(values: Sequence[float]) -> Calibration:
        scale, host_ms = map(float, values)
        return Calibration(step_scale=scale, host_us=1000 * host_ms, overlap=OVERLAP)

    result = least_squares(
        lambda values: weights * [row.log_error(constants(values)) for row in rows],
        (1.1, 1.5),
        bounds=(1e-6, np.inf),
    )
    return constants(result.x)


def left_out(rows: Sequence[Speed]) -> np.ndarray:
    """log_error of each row under the fit to the other models."""
    errors = np.empty(len(rows))
    for model in dict.fromkeys(row.model for row in rows):
        constants = fit([row for row in rows if row.model != model])
        for i, row in enumerate(rows):
            if row.model == model:
                errors[i] = row.log_error(constants)
    return errors


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


def engine_of(rows: Sequence[Speed], errors: np.ndarray) -> dict[str, Any]:
    """The entry of a table with rows, for meta.yaml."""
    constants, relative = fit(rows), np.abs(np.expm1(errors))
    steps = [
        row.measured_ms / (row.generated if row.metric == "latency_ms" else 1)
        for row in rows
        if row.metric != "ttft_ms"
    ]
    kinds = sorted({kind for row in rows for kind in row.derived})
    return {
        "stack": "fused",
        "step_scale": round(constants.step_scale, 3),
        "host_us": round(constants.host_us),
        "overlap": constants.overlap,
        "half_width": round(half_width([row.model for row in rows], errors), 3),
        "step_ms": [round(min(steps), 2), round(max(steps), 2)],
        "kinds": {
            kind: round(max(row.derived.get(kind, 0.0) for row in rows), 3) for kind in kinds
        },
        "left_out_mean_error": round(float(relative.mean()), 3),
        "left_out_max_error": round(float(relative.max()), 3),
        "fitted_on": SPEEDS,
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
        model = LatencyModel(
            table, "decode-8k", calibration=Calibration(stack=found.correction.stack)
        )
        shares = derived_shares(model.estimate(load_architecture(name)))
        kinds = {kind: max(share, kinds.get(kind, 0.0)) for kind, share in shares.items()}
    relative = np.abs(found.left_out[~found.rates])
    return {
        "stack": found.correction.stack,
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


def report(rows: dict[str, list[Speed]], errors: dict[str, np.ndarray]) -> str:
    """Each row left out, with whether the interval holds it, and the errors by table."""
    lines, inside, widths = [], [], []
    for name, listed in rows.items():
        width = half_width([row.model for row in listed], errors[name])
        lines.append(f"{name}: 90 % interval x/ {np.exp(width):.2f}")
        for row, error in zip(listed, errors[name], strict=True):
            inside.append(abs(error) <= width)
            widths.append(np.sinh(width))
            mark = " " if inside[-1] else "*"
            lines.append(
                f"  {row.model:<14}{row.workload:<38}{row.metric:<11}{row.measured_ms:>10,.2f}"
                f"{np.expm1(error):>+8.1%}{mark}"
            )
        relative = np.abs(np.expm1(errors[name]))
        lines.append(f"  mean error {relative.mean():.1%}, largest {relative.max():.1%}")
    both = np.abs(np.expm1(np.concatenate(list(errors.values()))))
    return "\n".join(
        [
            *lines,
            f"all: mean error {both.mean():.1%}, largest {both.max():.1%};"
            f" {sum(inside)} of {len(inside)} inside, half-width {np.mean(widths):.1%};"
            " * outside",
        ]
    )


def main(arguments: Sequence[str]) -> None:
    """Print the fits, and with --write keep them."""
    tables = {name: LatencyTable.load(name) for name in (*FITTED, "h200_sxm", "l40s")}
    rows = {name: speeds(tables[name]) for name in FITTED}
    errors = {name: left_out(rows[name]) for name in FITTED}
    engine = {name: engine_of(rows[name], errors[name]) for name in FITTED}
    lent = fit(rows[LENDER])
    missed = [row for name in FITTED if name != LENDER for row in rows[name]]
    width = half_width(
        [row.model for row in missed], np.array([row.log_error(lent) for row in missed])
    )
    paper, paper_report = paper_of(tables[LENDER])
    for kind, error in variant_errors().items():
        print(f"rule for a variant, {kind}: mean error {error:.1%}")
    print(f"{paper_report}\n{report(rows, errors)}")
    print(f"{LENDER} on the other models: 90 % interval x/ {np.exp(width):.2f}")
    for name, table in tables.items():
        blocks = table.calibrated("paper").attention_blocks
        entries = {
            "engine": engine.get(name) or borrowed(engine[LENDER], width),
            "paper": paper
            if name == LENDER
            else borrowed(paper, width, attention_blocks=int(blocks)),
        }
        print(f"{name}: {entries}")
        if "--write" in arguments:
            with edited_meta(table.path) as meta:
                meta["calibration"] = entries


if __name__ == "__main__":
    main(sys.argv[1:])
