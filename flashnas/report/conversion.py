"""What a conversion found, as text and as a section of report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from jinja2 import UndefinedError
from markupsafe import Markup

from flashnas.base.errors import RunError
from flashnas.base.text import columns, first_line
from flashnas.convert.choices import KEPT
from flashnas.evidence.conversions import conversions, summary
from flashnas.report.drawing import STYLE, Plot, key
from flashnas.report.page import Section, render, render_text
from flashnas.runs.layout import CONFIG
from flashnas.runs.run import RecordedRun

CHOSEN, OTHER, ELSEWHERE = "#D55E00", "#0072B2", "#777777"  # colours


def conversion_text(values: Mapping[str, Any]) -> str:
    agreement = values["agreement_with_kl"]
    words = {
        "finalists": "\n".join(columns(_finalists(values))),
        "agreement_with_kl": ", ".join(f"{name} {value:.2f}" for name, value in agreement.items()),
    }
    return render_text("conversion.txt", **{**values, **_words(values), **words})


def conversion(run: RecordedRun) -> str:
    """The section of a run folder that a conversion has written; empty of a search."""
    values = run.entry("conversion")
    if not values:
        return ""
    try:
        return render(
            "conversion.html",
            **{**values, **_words(values), "finalists": _finalists(values)},
            wide=Markup(figure(values).svg()),
            narrow=Markup(figure(values, narrow=True).svg()),
            published=summary(conversions()),
        )
    except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        place = f"{run.path / CONFIG}: conversion"
        raise RunError(f"{place}: damaged: {first_line(error)}") from None


def _words(values: Mapping[str, Any]) -> dict[str, Any]:
    """What both templates call and show."""
    inside = sum(entry["inside"] for entry in values["finalists"])
    return {
        "inside": f"{inside} of {len(values['finalists'])}",
        "decided": decided,
        "undecided": undecided,
        "placements": placements,
    }


def decided(answer: Mapping[str, Any]) -> str:
    changed = [
        f"{layer['layer']}:{layer['chosen']}"
        for layer in answer["layers"]
        if layer["decided"] and layer["chosen"] != KEPT
    ]
    return ", ".join(changed) or "nothing"


def undecided(answer: Mapping[str, Any]) -> str:
    layers = []
    for layer in answer["layers"]:
        if not layer["decided"]:
            shares = (f"{name} {100 * share:.0f} %" for name, share in layer["shares"].items())
            layers.append(f"layer {layer['layer']}: {', '.join(shares)}")
    return "; ".join(layers) or "nothing"


def placements(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best layout of each way to place the changes."""
    best: dict[str, dict[str, Any]] = {}
    for other in sorted(answer["others"], key=lambda other: other["kl"]):
        best.setdefault(other["placement"], other)
    return list(best.values())


def _finalists(values: Mapping[str, Any]) -> list[list[str]]:
    """The table of finalists, its head first."""
    timed = any(entry["timed_ms"] for entry in values["finalists"])
    head = [
        "share",
        "latency",
        "KL predicted",
        "KL measured",
        "inside",
        "recall predicted",
        "recall",
        "layout",
    ]
    lines = [[*head[:2], *(["timed"] if timed else []), *head[2:]]]
    for entry in values["finalists"]:
        predicted = entry["predicted"]
        line = [
            f"{100 * entry['share']:.1f} %{'*' if entry['answers_a_budget'] else ' '}",
            f"{entry['latency_ms']:,.0f} ms",
        ]
        if timed:
            line.append(f"{100 * entry['timed_ms'] / entry['model_timed_ms']:.1f} %")
        line += [
            f"{predicted['kl']:.3f} ({predicted['kl_low']:.3f} to {predicted['kl_high']:.3f})",
            f"{entry['kl']:.3f} ± {entry['kl_half']:.3f}",
            "yes" if entry["inside"] else "no",
            f"{100 * predicted['recall']:.0f} % ({100 * predicted['recall_low']:.0f} to"
            f" {100 * predicted['recall_high']:.0f})",
            f"{100 * entry['recall']:.0f} %",
            entry["layout"],
        ]
        lines.append(line)
    return lines


def figure(values: Mapping[str, Any], narrow: bool = False) -> Plot:
    """KL over the share of the model's time: predicted, measured, and other placements."""
    keys = [
        key("choice for a budget", CHOSEN, "o"),
        key("other finalist", OTHER, "o"),
        key("predicted, 90 %", OTHER, linestyle="-", linewidth=6, alpha=0.35),
        key("as many changes, evenly", ELSEWHERE, "s"),
        key("as many changes, otherwise", ELSEWHERE, "X"),
    ]
    with matplotlib.rc_context(STYLE):
        plot = Plot("KL to the model", "measured on fresh text", [300], keys=keys, narrow=narrow)
        (panel,) = plot.panels
        for entry in values["finalists"]:
            share, low_high = 100 * entry["share"], entry["predicted"]
            colour = CHOSEN if entry["answers_a_budget"] else OTHER
            interval = [low_high["kl_low"], low_high["kl_high"]]
            panel.plot([share, share], interval, color=colour, alpha=0.35, linewidth=6)
            panel.errorbar(
                share, entry["kl"], entry["kl_half"], color=colour, marker="o", capsize=3
            )
        for answer in values["answers"]:
            share = 100 * answer["latency_ms"] / values["model_ms"]
            for other in answer["others"]:
                marker = "s" if other["placement"] == "evenly spaced" else "X"
                panel.plot(share, other["kl"], marker, color=ELSEWHERE)
        panel.set_yscale("log")
        panel.invert_xaxis()
        plot.label(panel, "share of the model's time (%)", "KL, nats per token")
    return plot


CONVERSION = Section("Conversion", conversion)
