"""What `scaling-law` and `evidence` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.base.quantities import tokens_text
from flashnas.report.text import columns, known, number, parameters

Result = Mapping[str, Any]   # of a study, as its to_dict() gives it

# -- scaling-law ---------------------------------------------------------------------------------------------

SIZE = ("depth", "width ", "loss (95 % interval)", "latency (ms)", "params")
CONSTANTS = ("L0", "a", "alpha", "b", "beta", "c", "gamma")


def scaling_headline(result: Result) -> str:
    """One line: the error at larger sizes beside the paper's."""
    error = result["extrapolation_error"]
    if not known(error):
        return "too few depths and widths to hold the largest ones out"
    return (f"held-out larger sizes: perplexity off by at most {error:.1%},"
            f" {result['mean_extrapolation_error']:.1%} on average (the paper: within"
            f" {result['paper_error']:.1%})")


def scaling_text(result: Result) -> str:
    lines = [f"{result['trainings']} trainings of blocks `{result['pattern']}`"
             + (f", {result['failed']} failed" if result["failed"] else ""), "", *_law(result["law"]), "",
             scaling_headline(result)]
    if known(result["token_extrapolation_error"]):
        lines.append(f"held-out largest token count: perplexity off by at most"
                     f" {result['token_extrapolation_error']:.1%}")
    lines += [*_warnings(result), "", *_ladder(result), *_answer(result)]
    return "\n".join(lines)


def _law(law: Result) -> list[str]:
    tokens = "" if law["c"] is None else " + c tokens^-gamma"
    intervals = {name: law["intervals"].get(name, (None, None)) for name in CONSTANTS
                 if law[name] is not None}
    return [f"loss = L0 + a depth^-alpha + b width^-beta{tokens}   (nats per token)",
            *columns([("constant", "value", "95 % interval"),
                      *((name, number(law[name]), f"{number(low)} to {number(high)}")
                        for name, (low, high) in intervals.items())], (0,)),
            *([] if tokens else ["all trainings have the same tokens; L0 holds their term"]),
            f"residuals: standard deviation {law['noise_nats']:.4f} nats"]


def _warnings(result: Result) -> list[str]:
    lines = [f"the loss does not fall with {axis} in these trainings: its term is 0, and the answer follows"
             " the other terms" for axis in result["gone"]]
    mixing = result["mixing"]
    if mixing is None:
        return lines
    meaning = ("depth pays off later than the law says: for more tokens than these, go deeper"
               if mixing["high"] < 0
               else "depth pays off less with more tokens than the law says" if mixing["low"] > 0
               else "the terms add up, as the law says")
    return [*lines, f"depth and tokens together: {mixing['value']:+.4f} nats for e times both"
                    f" [{mixing['low']:+.4f}, {mixing['high']:+.4f}]; {meaning}"]


def _ladder(result: Result) -> list[str]:
    steps = result["by_budget"]
    lines = [f"{result['workload']} on {result['table']}, loss at {result['tokens']:,} tokens",
             *columns([("budget (ms)", *SIZE),
                       *((number(step["budget_ms"]), *_size(step)) for step in steps)], (3,))]
    if any(step["extrapolated"] for step in steps):
        lines.append("* larger than any training, so beyond what was checked")
    return lines


def _answer(result: Result) -> list[str]:
    answer = result["answer"]
    if answer is None:
        return []
    beyond = f" (beyond the trained {' and '.join(answer['extrapolated'])})" if answer["extrapolated"] else ""
    return ["", f"within {number(answer['budget_ms'])} ms, the best width of each depth:",
            *columns([SIZE, *map(_size, answer["by_depth"])], (2,)),
            f"best: {answer['depth']} blocks at width {answer['width']}{beyond}, loss {answer['loss']:.3f}"
            f" [{answer['low']:.3f}, {answer['high']:.3f}], {number(answer['latency_ms'])} ms"]


def _size(size: Result) -> tuple[str, ...]:
    return (str(size["depth"]), f"{size['width']}{'*' if size['extrapolated'] else ' '}",
            f"{size['loss']:.3f} [{size['low']:.3f}, {size['high']:.3f}]", number(size["latency_ms"]),
            parameters(size["params"]))


# -- evidence ------------------------------------------------------------------------------------------------

EFFECTS = {"law": "slope of the law of size and shape", "mixed": "a second family of mixers",
           "gated_delta": "gated delta rules in place of other mixers",
           "beyond": "slope of what a short training says beyond these",
           "ffn": "(share of parameters in FFNs - 0.3) squared"}
ALONE = 1.5   # times the usual spread from which on a publication is said to stand alone


def evidence_text(result: Result) -> str:
    """The publications, what they say of two mixes, and how far they disagree."""
    rows, publications, disagreement = (result[name] for name in ("rows", "publications", "disagreement"))
    lines = [f"{rows['trainings']} full trainings of mixes by {len(publications)} publications; beside them"
             f" {rows['shapes']} trainings of shapes, {rows['ffn_shares']} of FFN shares, {rows['recall']} of"
             " recall",
             "", *columns([("publication", "rows", "groups", "parameters", "tokens", "spread", "mixers"),
                           *(_publication(each) for each in publications)], (0, 3, 4)),
             "spread: what a publication finds and others do not, over that of the middle one; above"
             f" x{ALONE:g} its gaps count little", ""]
    if "mixes" in result:
        lines += [*_mixes(result["mixes"]), ""]
    return "\n".join([
        *lines,
        f"two publications order {disagreement['right']} of {disagreement['pairs']} clear pairs of mixes"
        " alike that both have", "",
        *columns([("nats for a full effect", "mean +- sd", "between publications"),
                  *((EFFECTS.get(name, name), f"{effect['mean']:+.3f} +- {effect['sd']:.3f}",
                     f"{effect['between_publications']:.3f}")
                    for name, effect in disagreement["effects"].items())], (0, 1))])


def _publication(publication: Result) -> tuple[str, ...]:
    spread = "" if publication["spread"] is None else f"x{publication['spread']:.1f}"
    return (publication["source"], str(publication["rows"]), str(len(publication["groups"])),
            _range(publication["params"]), _range(publication["tokens"]), spread,
            " ".join(publication["mixers"]))


def _mixes(mixes: Result) -> list[str]:
    claims = mixes["said"]
    rows = [(f"  {claim['source']}", f"{claim['mean']:+.3f}",
             f"{claim['pairs']} pair{'s' * (claim['pairs'] > 1)}"
             + (f", {claim['least']:+.3f} to {claim['most']:+.3f}" if claim["pairs"] > 1 else "")
             + f"   ({', '.join(claim['groups'])})") for claim in claims]
    if mixes["spread"] is not None:
        rows.append(("", "", f"publications differ by a standard deviation of {mixes['spread']:.3f}"))
    rows.append(("  model", f"{mixes['mean']:+.3f} +- {mixes['sd']:.3f}",
                 "from all publications, for 1B parameters and 100B tokens"))
    return [f"{mixes['other']!r} less {mixes['one']!r}, nats per token at equal size and shape (below 0:"
            f" {mixes['other']!r} is better)",
            *([] if claims else ["  no publication has both in one group"]), *columns(rows, (0, 1))]


def _range(values: Sequence[float]) -> str:
    least, most = map(tokens_text, values)
    return least if least == most else f"{least} to {most}"
