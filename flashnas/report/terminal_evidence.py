"""The result of `flashnas evidence` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.base.quantities import tokens_text

Result = Mapping[str, Any]   # PublishedEvidence.found
EFFECTS = {"law": "slope of the law of size and shape", "mixed": "a second family of mixers",
           "gated_delta": "gated delta rules in place of other mixers",
           "beyond": "slope of what a short training says beyond these",
           "ffn": "(share of parameters in FFNs - 0.3) squared"}
ALONE = 1.5   # times the usual spread from which on a publication is said to stand alone


def evidence_text(found: Result) -> str:
    """The publications, what they say of two mixes, and how far they disagree."""
    rows = found["rows"]
    lines = [f"{rows['trainings']} full trainings of mixes by {len(found['publications'])} publications; beside them"
             f" {rows['shapes']} trainings of shapes, {rows['ffn_shares']} of FFN shares, {rows['recall']} of recall",
             "", *_publications(found["publications"]), ""]
    if "mixes" in found:
        lines += [*_mixes(found["mixes"]), ""]
    return "\n".join([*lines, *_disagreement(found["disagreement"])])


def _publications(publications: Sequence[Result]) -> list[str]:
    width = max(len("publication"), *(len(each["source"]) for each in publications))
    lines = [f"{'publication':<{width}}  rows  groups  {'parameters':<13}  {'tokens':<13}  spread  mixers"]
    for each in publications:
        spread = "" if each["spread"] is None else f"x{each['spread']:.1f}"
        lines.append(f"{each['source']:<{width}}  {each['rows']:>4}  {len(each['groups']):>6}"
                     f"  {_range(each['params']):<13}  {_range(each['tokens']):<13}  {spread:>6}"
                     f"  {' '.join(each['mixers'])}")
    lines.append("spread: what a publication finds and others do not, over that of the middle one; above"
                 f" x{ALONE:g} its gaps count little")
    return lines


def _mixes(mixes: Result) -> list[str]:
    said = mixes["said"]
    lines = [f"{mixes['other']!r} less {mixes['one']!r}, nats per token at equal size and shape (below 0:"
             f" {mixes['other']!r} is better)"]
    if not said:
        lines.append("  no publication has both in one group")
    width = max([len("model"), *(len(each["source"]) for each in said)])
    for each in said:
        span = f", {each['least']:+.3f} to {each['most']:+.3f}" if each["pairs"] > 1 else ""
        lines.append(f"  {each['source']:<{width}}  {each['mean']:+.3f}   {each['pairs']}"
                     f" pair{'s' if each['pairs'] > 1 else ''}{span}   ({', '.join(each['groups'])})")
    if mixes["spread"] is not None:
        lines.append(f"  {'':<{width}}  publications differ by a standard deviation of {mixes['spread']:.3f}")
    lines.append(f"  {'model':<{width}}  {mixes['mean']:+.3f} +- {mixes['sd']:.3f}   from all publications, for 1B"
                 " parameters and 100B tokens")
    return lines


def _disagreement(found: Result) -> list[str]:
    effects = found["effects"]
    width = max(len(EFFECTS.get(name, name)) for name in effects)
    lines = [f"two publications order {found['right']} of {found['pairs']} clear pairs of mixes alike that both have",
             "", f"{'nats for a full effect':<{width}}  {'mean +- sd':<15}  between publications"]
    lines += [f"{EFFECTS.get(name, name):<{width}}  {effect['mean']:+.3f} +- {effect['sd']:.3f}"
              f"  {effect['between_publications']:>20.3f}" for name, effect in effects.items()]
    return lines


def _range(values: Sequence[float]) -> str:
    least, most = map(tokens_text, values)
    return least if least == most else f"{least} to {most}"
