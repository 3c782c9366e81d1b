"""The result of `flashnas proxy-trust --published` for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WRONG_SHOWN = 6  # pairs of each group
Result = Mapping[str, Any]  # PublishedTrust.to_dict()


def published_text(result: Result) -> str:
    """The verdict, a table by group, the baselines, and the wrong pairs by name."""
    width = max(len(group["group"]) for group in result["groups"])
    width = max(width, len("pairs that all publications agree on"))
    lines = [*published_verdict(result), "",
             f"{'ordered as published':<{width}}  right of pairs   share  95 % interval  0.01 to 0.02 nats  Spearman"]
    named = [("all groups", result["overall"]), *((group["group"], group) for group in result["groups"]),
             ("pairs that all publications agree on", result["consensus"]),
             *((f"guessed by {name}" if name != "a coin" else name, found)
               for name, found in result["baselines"].items())]
    lines += [_line(name, found, width) for name, found in named]
    among = result["publications"]
    if among["pairs"]:
        lines.append(f"{'one publication by another':<{width}}  {_count(among)}")
    for group in result["groups"]:
        if group["wrong"]:
            lines += ["", f"ordered wrongly in {group['group']} (the better one | the worse one):",
                      *(f"  {pair}" for pair in group["wrong"][:WRONG_SHOWN])]
            if len(group["wrong"]) > WRONG_SHOWN:
                lines.append(f"  and {len(group['wrong']) - WRONG_SHOWN} more")
    return "\n".join(lines)


def published_verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on."""
    overall = result["overall"]
    if overall["share"] is None:
        return ["not known yet: no clear pair has both of its networks trained"]
    recipe, low = result["recipe"], overall["interval"][0]
    words = (f"recipe {recipe['name']!r} orders {overall['right']:g} of {overall['pairs']} clear pairs as published"
             f" ({overall['share']:.0%}, 95 % interval {overall['interval'][0]:.0%} to {overall['interval'][1]:.0%})")
    known = [group for group in result["groups"] if group["share"] is not None]
    worst = min(known, key=lambda group: group["share"])
    cost = (f"{result['trainings']} trainings took {result['core_seconds'] / 60:.0f} core-minutes,"
            f" the longest {result['core_seconds_each'] / 60:.1f}")
    if result["failed"]:
        cost += f"; {result['failed']} failed, and their pairs do not count"
    return [words if low > 0.5 else f"NOISE: {words}: no better than a coin for sure",
            f"the worst group is {worst['group']}: {worst['right']:g} of {worst['pairs']} ({worst['share']:.0%})", cost]


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
