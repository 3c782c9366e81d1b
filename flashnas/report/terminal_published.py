"""The result of `flashnas proxy-trust --published` for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]  # PublishedTrust.to_dict()
AMONG = {"one publication by another": "publications", "one publication by its other group": "scales"}


def published_text(result: Result) -> str:
    """The verdict, a table by group, the baselines, and the wrong pairs by name."""
    width = max(len(group["group"]) for group in result["groups"])
    width = max(width, len("pairs that all groups agree on"))
    lines = [*published_verdict(result), "",
             f"{'ordered as published':<{width}}  right of pairs   share  95 % interval  0.01 to 0.02 nats  Spearman"]
    named = [("all groups", result["overall"]), *((group["group"], group) for group in result["groups"]),
             ("pairs that all groups agree on", result["consensus"]),
             *((f"guessed by {name}" if name != "a coin" else name, found)
               for name, found in result["baselines"].items())]
    lines += [_line(name, found, width) for name, found in named]
    lines += [_line(name, result[key], width) for name, key in AMONG.items() if result[key]["pairs"]]
    for group in result["groups"]:
        lines += _wrong(group)
    return "\n".join(lines)


def published_verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on."""
    overall = result["overall"]
    if overall["share"] is None:
        return ["not known yet: no clear pair has both of its networks trained"]
    recipe, low = result["recipe"], overall["interval"][0]
    words = (f"recipe {recipe['name']!r} orders {overall['right']:g} of {overall['pairs']} clear pairs as"
             f" published ({overall['share']:.0%}, 95 % interval {_interval(overall['interval'])})")
    known = [group for group in result["groups"] if group["share"] is not None]
    worst = min(known, key=lambda group: group["share"])
    cost = (f"{result['trainings']} trainings took {result['core_seconds'] / 60:.0f} core-minutes,"
            f" the longest {result['core_seconds_each'] / 60:.1f}")
    if result.get("from_bench"):
        cost += f"; from the shipped bench: {result['from_bench']}"
    if result["failed"]:
        cost += f"; {result['failed']} failed, and their pairs do not count"
    return [words if low > 0.5 else f"NOISE: {words}: no better than a coin for sure",
            f"the worst group is {worst['group']}: {worst['right']:g} of {worst['pairs']} ({worst['share']:.0%})", cost]


def _wrong(group: Result) -> list[str]:
    """The wrong pairs of a group, by the network that comes out too good, the one with the most pairs first."""
    behind: dict[str, list[str]] = defaultdict(list)
    for pair in group["wrong"]:
        better, _, worse = pair.partition(" | ")
        behind[worse].append(better)
    if not behind:
        return []
    pairs = len(group["wrong"])
    lines = ["", f"ordered wrongly in {group['group']} ({pairs} pair{'s' if pairs > 1 else ''}):"]
    for worse, betters in sorted(behind.items(), key=lambda item: -len(item[1])):
        lines += [f"  {worse} should be behind", *(f"    {better}" for better in betters)]
    return lines


def _line(name: str, found: Result, width: int) -> str:
    return f"{name:<{width}}  {_count(found)}".rstrip()


def _count(found: Result) -> str:
    share = found["share"]
    cells: Iterable[str] = (
        f"{found['right']:>5g} of {found['pairs']:<5}",
        f"{'' if share is None else f'{share:.0%}':>7}",
        f"{_interval(found.get('interval')):>13}",
        f"{_close(found.get('close')):>17}",
        f"{'' if found.get('spearman') is None else format(found['spearman'], '.2f'):>8}")
    return "  ".join(cells).rstrip()


def _interval(interval: Any) -> str:
    return "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"


def _close(close: Any) -> str:
    return f"{close['right']:g} of {close['pairs']}" if close and close["pairs"] else ""
