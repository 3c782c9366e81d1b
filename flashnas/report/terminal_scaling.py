"""The result of `flashnas scaling-law` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashnas.report.text import known, number, parameters

Result = Mapping[str, Any]  # ScalingLaw.to_dict()
CONSTANTS = ("L0", "a", "alpha", "b", "beta", "c", "gamma")


def headline(result: Result) -> str:
    """One line: the error at larger sizes beside the paper's."""
    error = result["extrapolation_error"]
    if not known(error):
        return "too few depths and widths to hold the largest ones out"
    return (f"held-out larger sizes: perplexity off by at most {error:.1%},"
            f" {result['mean_extrapolation_error']:.1%} in the mean (the paper: within {result['paper_error']:.1%})")


def scaling_text(result: Result) -> str:
    """Law, validation and answer of a ScalingLaw.to_dict()."""
    lines = [f"{result['trainings']} trainings of blocks `{result['pattern']}`"
             + (f", {result['failed']} failed" if result["failed"] else ""), "", *_law(result["law"]), "",
             headline(result)]
    if known(result["token_extrapolation_error"]):
        lines.append(f"held-out largest token count: perplexity off by at most"
                     f" {result['token_extrapolation_error']:.1%}")
    lines += [*_warnings(result), "", *_ladder(result), *_answer(result)]
    return "\n".join(lines)


def _law(law: Result) -> list[str]:
    one_count = law["c"] is None
    lines = [f"loss = L0 + a depth^-alpha + b width^-beta{'' if one_count else ' + c tokens^-gamma'}   (nats per"
             " token)", f"{'constant':<10}{'value':>12}  95 % interval"]
    for name in CONSTANTS:
        if law[name] is not None:
            low, high = law["intervals"].get(name, (None, None))
            lines.append(f"{name:<10}{number(law[name]):>12}  {number(low)} to {number(high)}")
    if one_count:
        lines.append("all trainings have the same tokens; L0 holds their term")
    return [*lines, f"residuals: standard deviation {law['noise_nats']:.4f} nats"]


def _warnings(result: Result) -> list[str]:
    lines = [f"the loss does not fall with {axis} in these trainings: its term is 0, and the answer follows the other"
             " terms" for axis in result["gone"]]
    mixing = result["mixing"]
    if mixing is None:
        return lines
    meaning = ("depth pays off later than the law says: for more tokens than these, go deeper" if mixing["high"] < 0
               else "depth pays off less with more tokens than the law says" if mixing["low"] > 0
               else "the terms add up, as the law says")
    return [*lines, f"depth and tokens together: {mixing['value']:+.4f} nats for e times both"
                    f" [{mixing['low']:+.4f}, {mixing['high']:+.4f}]; {meaning}"]


def _ladder(result: Result) -> list[str]:
    lines = [f"{result['workload']} on {result['table']}, loss at {result['tokens']:,} tokens",
             f"{'budget (ms)':>12}  {'depth':>5}  {'width':>5}  {'loss (95 % interval)':<24}{'latency (ms)':>12}"
             "  params", *(f"{number(step['budget_ms']):>12}  {_size(step)}" for step in result["by_budget"])]
    if any(step["extrapolated"] for step in result["by_budget"]):
        lines.append("* larger than any training, so beyond what was checked")
    return lines


def _answer(result: Result) -> list[str]:
    answer = result["answer"]
    if answer is None:
        return []
    beyond = f" (beyond the trained {' and '.join(answer['extrapolated'])})" if answer["extrapolated"] else ""
    return ["", f"within {number(answer['budget_ms'])} ms, the best width of each depth:",
            *(f"{'':>12}  {_size(size)}" for size in answer["by_depth"]),
            f"best: {answer['depth']} blocks at width {answer['width']}{beyond}, loss {answer['loss']:.3f}"
            f" [{answer['low']:.3f}, {answer['high']:.3f}], {number(answer['latency_ms'])} ms"]


def _size(size: Result) -> str:
    mark = "*" if size["extrapolated"] else " "
    loss = f"{size['loss']:.3f} [{size['low']:.3f}, {size['high']:.3f}]"
    return (f"{size['depth']:>5}  {size['width']:>5}{mark} {loss:<24}{number(size['latency_ms']):>12}"
            f"  {parameters(size['params'])}")
