"""Test every rule of the latency model on measured rows that the rule does not use; writes
rule_coverage.csv. See README.md.

    python experiments/serving/rule_coverage.py [--tables h100_sxm l40s]
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from flashnas.base.registry import shipped_names
from flashnas.latency.grid import OTHER_REACH, REACH
from flashnas.latency.lookup import KernelTimes, LookupFailure
from flashnas.latency.table import LatencyTable
from flashnas.operators.kernel import Asked, KernelKind, Phase
from flashnas.operators.kernel_kinds import KERNEL_KINDS, kind_of_rows

HERE = Path(__file__).parent
MOST = 400  # rows that are asked for in one test; more are sampled
FEWEST = 20  # rows; a test of fewer says nothing
DTYPE = "bfloat16"
SHORT = 512  # tokens


@dataclass(frozen=True)
class Test:
    """Rows that were taken out of a table, and the question whether what is left predicts them.

    Args:
        rule: as in the README.
        rows_name: kind of rows.
        axis: the size outside the rows that are left; or what is taken away.
        left: the table without the rows, and without others that the rule must not use.
        asked: the rows that are predicted.
    """

    rule: str
    rows_name: str
    axis: str
    left: LatencyTable
    asked: pd.DataFrame


def kind_and_phase(rows_name: str) -> tuple[KernelKind, Phase]:
    found = kind_of_rows(rows_name)
    assert found is not None
    return found[0], found[1] or "decode"


def question(kind: KernelKind, phase: Phase, row: dict[str, int]) -> Asked:
    """The question that a row answers."""
    call = kind.call(
        "row", **{name: int(row.get(name, row.get("heads", 1))) for name in kind.shape}
    )
    batch = int(row.get("batch", 1))
    seen = np.array([int(row.get("context", row.get("tokens", 1)))])
    rows = row["m"] if "m" in row else batch * (1 if phase == "decode" else int(row["tokens"]))
    return Asked(call, phase, batch, seen, rows)


def taken(table: LatencyTable, rule: str, rows_name: str, axis: str, keep: pd.Series) -> Test:
    """Of the rows of one name those that are kept, and the question for the others."""
    frame = table.frames[rows_name]
    left = replace(table, frames={**table.frames, rows_name: frame[keep]})
    return Test(rule, rows_name, axis, left, frame[~keep])


def without(table: LatencyTable, *rows_names: str) -> LatencyTable:
    frames = {name: frame for name, frame in table.frames.items() if name not in rows_names}
    return replace(table, frames=frames)


def axes_of(rows_name: str) -> list[str]:
    kind, phase = kind_and_phase(rows_name)
    return [column for column in kind.columns(phase) if column not in kind.matched]


# -- the tests -------------------------------------------------------------------------------------


def beyond(table: LatencyTable, rows_name: str) -> Iterator[Test]:
    """The largest values of an axis, from values up to a quarter of it."""
    frame = table.frames[rows_name]
    for axis in axes_of(rows_name):
        values = np.unique(frame[axis])
        kept = values[values <= values[-1] / 4]
        if len(kept) >= 2 and values[-1] / kept[-1] <= REACH.get(axis, OTHER_REACH):
            yield taken(table, "beyond the largest", rows_name, axis, frame[axis] <= kept[-1])


def below(table: LatencyTable, rows_name: str) -> Iterator[Test]:
    """The smallest values of an axis, from values of at least twice as much."""
    frame = table.frames[rows_name]
    for axis in axes_of(rows_name):
        values = np.unique(frame[axis])
        kept = values[values >= 2 * values[0]]
        if 2 <= len(kept) < len(values):
            yield taken(table, "below the smallest", rows_name, axis, frame[axis] >= kept[0])


def corner(table: LatencyTable, rows_name: str) -> Iterator[Test]:
    """The tenth of the cells with the most work (product of all axes), as a table lacks cells that
    do not fit the device's memory; the smallest cell along the axis of growth is always left."""
    frame = table.frames[rows_name]
    kind, phase = kind_and_phase(rows_name)
    others = [column for column in kind.columns(phase) if column != kind.grow]
    work = frame[list(set(axes_of(rows_name)))].astype(float).prod(axis=1)
    smallest = frame[kind.grow] == frame.groupby(others)[kind.grow].transform("min")
    keep = (work <= work.quantile(0.9)) | smallest
    if not keep.all():
        yield taken(table, "a cell that was not measured", rows_name, kind.grow, keep)


def between(table: LatencyTable, rows_name: str) -> Iterator[Test]:
    """Every second value of an axis, from its neighbours: interpolation, which makes no `derived`
    row.
    """
    frame = table.frames[rows_name]
    for axis in axes_of(rows_name):
        values = np.unique(frame[axis])
        if len(values) >= 5:
            keep = frame[axis].isin([values[-1], *values[::2]])
            yield taken(table, "interpolation (not a rule)", rows_name, axis, keep)


def each_left_out(
    table: LatencyTable, rule: str, rows_name: str, axis: str, columns: Sequence[str]
) -> Iterator[Test]:
    """The rows of one combination of values at a time, from all others."""
    frame = table.frames[rows_name]
    for _, rows in frame.groupby(list(columns)):
        yield taken(table, rule, rows_name, axis, ~frame.index.isin(rows.index))


def heads_between(table: LatencyTable, rows_name: str) -> Iterator[Test]:
    """Attention: one pair (heads, key/value heads) at a time, from the pairs around it."""
    if pair := kind_and_phase(rows_name)[0].between:
        rule = "heads between measured ones"
        for test in each_left_out(table, rule, rows_name, "heads, kv_heads", pair):
            few = test.asked.sample(min(len(test.asked), 30), random_state=0)
            yield replace(test, asked=few)


def next_larger(table: LatencyTable, rows_name: str, column: str) -> Iterator[Test]:
    """Rows of one matched size, from those of the next larger one."""
    sizes = table.frames[rows_name][column]
    for size in np.unique(sizes)[:-1]:
        yield taken(table, f"next larger {column}", rows_name, f"{column}={size}", sizes != size)


def windows(table: LatencyTable, rows_name: str) -> Iterator[Test]:
    """Rows of windows, from full attention."""
    frame = table.frames[rows_name]
    test = taken(table, "full attention for a window", rows_name, "", frame["window"] == 0)
    tokens = test.asked["context" if "context" in frame else "tokens"]
    for window in np.unique(frame["window"])[1:]:
        asked = test.asked[(test.asked["window"] == window) & (tokens > window)]
        if len(asked):
            yield replace(test, axis=f"window={window}", asked=asked)


def other_kind(table: LatencyTable) -> Iterator[Test]:
    """Kimi delta attention, from rows of the gated delta rule."""
    rule, triton = "same state of another kind", "gated_delta_rule_triton_prefill"
    for name in ("kda_decode", "kda_prefill"):
        if name in table.frames:
            yield Test(rule, name, "kind", without(table, name), table.frames[name])
    if triton in table.frames:  # the rule as it was, for comparison
        left, asked = without(table, "kda_prefill", triton), table.frames["kda_prefill"]
        yield Test(f"{rule} (the faster kernel)", "kda_prefill", "kind", left, asked)


def chunks(table: LatencyTable) -> Iterator[Test]:
    """Prefills of recurrent kernels, short and long ones, from decode steps and bytes alone."""
    triton = "gated_delta_rule_triton_prefill"
    names = [
        name for name in ("gated_delta_rule_prefill", "kda_prefill", triton) if name in table.frames
    ]
    left = without(table, *names)
    for name in names:
        faster = name == "gated_delta_rule_prefill" and triton in names
        rule = "prefill as chunks" + (" (the faster kernel)" if faster else "")
        frame = table.frames[name]
        short = frame["tokens"] <= SHORT
        asked = "gated_delta_rule_prefill" if name == triton else name
        yield Test(rule, asked, f"up to {SHORT} tokens", left, frame[short])
        yield Test(rule, asked, f"beyond {SHORT} tokens", left, frame[~short])


def other_experts(table: LatencyTable) -> Iterator[Test]:
    """Experts: one shape (hidden, experts, active, matrices) at a time, from the others; and one
    width of experts at a time, from the other widths of its shape."""
    shape = [*KERNEL_KINDS["experts"].matched]
    yield from each_left_out(table, "other experts", "experts", shape[-1], shape)
    rule = "other width of experts (interpolation)"
    yield from each_left_out(table, rule, "experts", "inner", [*shape, "inner"])


def tests(table: LatencyTable) -> Iterator[Test]:
    table = replace(
        table, frames={name: frame[frame["dtype"] == DTYPE] for name, frame in table.frames.items()}
    )
    for rows_name in table.frames:
        kind, _ = kind_and_phase(rows_name)
        for make in (beyond, below, corner):
            for test in make(table, rows_name):
                yield replace(test, rule="other experts") if kind.strict else test
        for make in (between, heads_between):
            yield from make(table, rows_name)
        if rows_name.startswith("attention"):
            yield from next_larger(table, rows_name, "head_dim")
            yield from windows(table, rows_name)
    yield from other_kind(table)
    yield from chunks(table)
    yield from other_experts(table)


# -- what they give --------------------------------------------------------------------------------


def run(test: Test) -> pd.DataFrame:
    """One line for each row: ratio (predicted over measured), lower and upper (bounds over
    measured).
    """
    kind, phase = kind_and_phase(test.rows_name)
    seed = zlib.crc32(f"{test.rule}{test.rows_name}{test.axis}".encode())
    asked = test.asked if len(test.asked) <= MOST else test.asked.sample(MOST, random_state=seed)
    times, lines = KernelTimes(test.left, DTYPE), []
    for row in asked.to_dict("records"):
        try:
            time = times.answer(question(kind, phase, row))
        except LookupFailure:
            continue  # the rule does not reach so far: it says so, and makes no number
        measured = row["latency_us"]
        lines.append(
            {
                "table": test.left.name,
                "rule": test.rule,
                "rows": test.rows_name,
                "axis": test.axis,
                "ratio": time.us / measured,
                "lower": time.lower_us / measured,
                "upper": time.upper_us / measured,
                "source": time.source,
            }
        )
    return pd.DataFrame(lines)


def summary(lines: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One line for each group: how many rows were tested, the share inside the bounds, and
    predicted over measured.
    """

    def one(part: pd.DataFrame) -> pd.Series:
        inside = ((part["lower"] <= 1) & (part["upper"] >= 1)).mean()
        edge = part["ratio"].quantile([0.05, 0.5, 0.95]).round(2)
        return pd.Series(
            {
                "tested": len(part),
                "inside": round(inside, 3),
                "ratio_p5": edge[0.05],
                "ratio_median": edge[0.5],
                "ratio_p95": edge[0.95],
            }
        )

    found = lines.groupby(by, sort=False)[["lower", "upper", "ratio"]].apply(one).reset_index()
    return found.astype({"tested": int})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tables",
        nargs="+",
        default=sorted(shipped_names("latency_tables")),
        help="tables (default: all shipped)",
    )
    parser.add_argument("--out", type=Path, default=HERE / "rule_coverage.csv")
    options = parser.parse_args()
    lines = pd.concat(
        [run(test) for name in options.tables for test in tests(LatencyTable.load(name))]
    )
    results = summary(lines, ["rule", "rows", "axis", "table"])
    results[results["tested"] >= FEWEST].to_csv(options.out, index=False)
    by_table = summary(lines, ["rule", "table"]).pivot(
        index="rule", columns="table", values="inside"
    )
    overall = summary(lines, ["rule"]).set_index("rule")
    print(overall.drop(columns="inside").join(by_table).to_string(na_rep=""))


if __name__ == "__main__":
    main()
