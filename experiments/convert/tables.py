"""The tables of README.md, from results/.

python experiments/convert/tables.py seed?_attention_engine seed1_all_engine    # seconds
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PLACEMENTS = {  # headings of the comparison, by the names that convert.py gives
    "evenly spaced": "evenly spaced",
    "at random": "best of five at random",
    "additive": "additive",
    "pairs, no floor": "pairs, no floor",
    "additive, no floor": "additive, no floor",
}


def main() -> None:
    """Print both tables for the results that are named."""
    names = sys.argv[1:] or ["seed?_attention_engine"]
    files = [file for name in names for file in sorted((HERE / "results").glob(f"{name}.json"))]
    results = {file.stem: json.loads(file.read_text()) for file in files}
    print(
        "| result | share of its time | KL predicted (90 %) | KL | recall predicted | recall | changes |"
    )
    print("|---|--:|--:|--:|--:|--:|---|")
    for name, found in results.items():
        inside = sum(entry["inside"] for entry in found["finalists"])
        print(f"{name}: {inside} of {len(found['finalists'])} inside", file=sys.stderr)
        for entry in sorted(found["finalists"], key=lambda entry: entry["share"]):
            print(f"| {name} | {finalist_cells(entry)} |")
    print("\n| result | budget | choice |", " | ".join(PLACEMENTS.values()), "|")
    print("|---|--:|--:|" + "--:|" * len(PLACEMENTS))
    for name, found in results.items():
        for answer in found["answers"]:
            share = f"{100 * answer['budget_ms'] / found['model_ms']:.0f} %"
            print(f"| {name} | {share} | {comparison_cells(found, answer)} |")


def finalist_cells(entry: dict[str, Any]) -> str:
    """Share of the time, what was predicted and what was measured, and the changes by kind."""
    predicted = entry["predicted"]
    share = f"{100 * entry['share']:.1f} %"
    if entry["answers_a_budget"]:
        share = f"**{share}**"
    kl = f"{predicted['kl']:.3f} ({predicted['kl_low']:.3f} to {predicted['kl_high']:.3f})"
    outside = "" if predicted["kl_low"] <= entry["kl"] <= predicted["kl_high"] else ", outside"
    low, high = 100 * predicted["recall_low"], 100 * predicted["recall_high"]
    recall = f"{100 * predicted['recall']:.0f} % ({low:.0f} to {high:.0f})"
    kinds: dict[str, list[str]] = {}
    for change in entry["layout"].split(", "):
        layer, kind = change.split(":", 1)
        place = f"{'f' * (int(layer) % 2)}{int(layer) // 2}"  # blocks of attention and network
        kinds.setdefault(kind, []).append(place)
    changes = "; ".join(f"{kind}: {' '.join(places)}" for kind, places in kinds.items())
    measured = f"{entry['kl']:.3f} ± {entry['kl_half']:.3f}{outside}"
    return f"{share} | {kl} | {measured} | {recall} | {100 * entry['recall']:.0f} % | {changes}"


def comparison_cells(found: dict[str, Any], answer: dict[str, Any]) -> str:
    """The answer, and how much more KL each other placement has; recall of each."""
    entry = next(e for e in found["finalists"] if e["layout"] == answer["layout"])
    cells = [f"{entry['kl']:.3f} ± {entry['kl_half']:.3f}, {100 * entry['recall']:.0f} %"]
    for placement in PLACEMENTS:
        measured = [each for each in answer["others"] if each["placement"] == placement]
        best = min(measured, key=lambda each: each["kl"])
        if best["layout"] == answer["layout"]:
            cells.append("the same")
            continue
        more = f"{best['more']:+.3f} ± {best['more_half']:.3f}"
        cells.append(f"{more}, {100 * best['recall']:.0f} %")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
