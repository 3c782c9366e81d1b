"""Published conversions of pretrained models: which layers kept attention, and what came of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.foreign import read_csv

SHIPPED = Path(__file__).with_name("data") / "published_conversions.csv"
GROUP = ("publication", "teacher", "recipe", "metric")
COLUMNS = (*GROUP, "layout", "kept_attention_layers", "tokens", "value", "place")
EVEN = "even", "uniform"  # names of layouts
SELECTED = "selection", "GA-", "GR-", "AVG-", "AR ", "SMART"


def conversions() -> list[dict[str, Any]]:
    """What each publication found with one recipe and one teacher, by metric: layout -> value, the
    best first."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for _, line in read_csv(SHIPPED, ConfigError, COLUMNS):
        key = tuple(line[name] for name in GROUP)
        group = groups.setdefault(
            key,
            {
                **dict(zip(GROUP, key, strict=True)),
                "tokens": line["tokens"],
                "source": line["place"],
                "values": {},
            },
        )
        group["values"][line["layout"]] = float(line["value"])
    for group in groups.values():
        group["values"] = dict(sorted(group["values"].items(), key=lambda item: -item[1]))
    return list(groups.values())


def gains(groups: list[dict[str, Any]]) -> list[float]:
    """Of each selector on each metric: its value less that of even spacing, as a share of the best
    value."""
    found = []
    for group in groups:
        values = group["values"]
        even = [
            value for name, value in values.items() if name.startswith(EVEN) and "half" not in name
        ]
        for name, value in values.items() if even else ():
            if any(word in name for word in SELECTED):
                found.append((value - even[0]) / max(values.values()))
    return found


def summary(groups: list[dict[str, Any]]) -> str:
    """What they say of selectors, in a sentence."""
    found = gains(groups)
    better = sum(gain > 0 for gain in found)
    return (
        f"a selector is better than even spacing in {better} of {len(found)} comparisons, by"
        f" {100 * statistics.median(found):.0f} % of the best value in the middle"
    )


def conversions_text(groups: list[dict[str, Any]]) -> str:
    return "\n".join(_lines(groups))


def _lines(groups: list[dict[str, Any]]) -> Iterator[str]:
    before = None
    for group in groups:
        head = f"{group['publication']}, {group['teacher']}: {group['recipe']}, {group['tokens']} tokens"
        if head != before:
            yield f"{head} ({group['source']})"
        before = head
        values = ", ".join(f"{name} {value:g}" for name, value in group["values"].items())
        yield f"  {group['metric']}: {values}"
    yield ""
    yield summary(groups)
    yield (
        "they do not show: error bars (each layout was trained once), how a selector orders layouts"
        " that it did not choose, milliseconds, and removal without training"
    )
