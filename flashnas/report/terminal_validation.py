"""A validation for the terminal: predicted, measured and error of each architecture, then a summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flashnas.report.folding import compressed
from flashnas.report.text import MISSING, known

WORDS = {"ttft_ms": "prefill", "tpot_ms": "decode step", "latency_ms": "request"}
SHOWN_WIDTH = 60


def validation_text(result: Mapping[str, Any]) -> str:
    """The text of a Validation.to_dict()."""
    names = [summary["metric"] for summary in result["metrics"]]
    header = ["", *(f"{WORDS[name]} ms: predicted  measured   error" for name in names), "architecture"]
    lines = ["  ".join(header)]
    for entry in result["architectures"]:
        cells = ["*" if entry["fitted"] else " "]
        for name in names:
            values = f"{entry['predicted'][name]:>10.3f}{entry['measured'][name]:>10.3f}{entry['error'][name]:>+8.1%}"
            cells.append(values.rjust(len(WORDS[name]) + 32))
        notation = compressed(entry["notation"])
        cells.append(notation if len(notation) <= SHOWN_WIDTH else notation[:SHOWN_WIDTH - 1] + "…")
        lines.append("  ".join(cells))
    if result["before"]:
        lines += ["* calibrated on; the lines below are of the others", "", *_summaries("before", result["before"]),
                  *_summaries("calibrated", result["metrics"]), "", *_corrections(result["corrections"])]
    else:
        lines += ["", *_summaries("", result["metrics"])]
    lines += [f"left out: {compressed(notation)}: {reason}" for notation, reason in result.get("left_out", ())]
    return "\n".join([*lines, "", *_carriers(result["carriers"])]).rstrip()


def _summaries(label: str, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{label:<12}{WORDS[s['metric']]:<12} mean error {s['mean_error']:.1%}, worst {s['max_error']:.1%},"
            f" bias {s['bias']:+.1%}, rank correlation"
            f" {format(s['spearman'], '.3f') if known(s['spearman']) else MISSING}"
            f" over {s['count']} architectures" for s in summaries]


def _corrections(corrections: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    for phase, c in corrections.items():
        yield (f"{phase:<8} = {c['scale']:g} x rows + {c['operator_us']:g} us per operator + {c['model_us']:g} us per"
               f" model + {c['mb_us']:g} us per MB")


def _carriers(carriers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterable[str]:
    for phase, kinds in carriers.items():
        parts = [f"{kind} {entry['carries']:+.1%} ({entry['own_error']:+.1%} of its own {entry['share']:.0%})"
                 for kind, entry in kinds.items()]
        if parts:
            yield f"error that each operator carries, {phase} (+: takes longer than predicted): {', '.join(parts)}"
