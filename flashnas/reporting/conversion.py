"""What a conversion found, as text."""

from __future__ import annotations

import math
import shlex

from flashnas.base.text import MISSING, columns
from flashnas.conversion.choices import KEPT
from flashnas.conversion.found import BudgetAnswer, ConversionFound
from flashnas.reporting.words import render_text


def conversion_text(found: ConversionFound) -> str:
    return render_text(
        "conversion.txt",
        found=found,
        finalists="\n".join(columns(finalists_table(found))),
        **WORDS,
    )


def finalists_table(found: ConversionFound) -> list[list[str]]:
    """The lines of the table of finalists, its head first."""
    predicted = ["KL predicted", "KL measured", "inside", "recall predicted", "recall"]
    lines = [["share", "latency", *predicted, "layout"]]
    for entry in found.finalists:
        own = entry.predicted
        line = [
            f"{100 * entry.share:.1f} %{'*' if entry.answers_a_budget else ' '}",
            f"{entry.latency_ms:,.0f} ms",
            f"{own.kl:.3f} ({own.kl_low:.3f} to {own.kl_high:.3f})",
            f"{entry.kl:.3f} ± {entry.kl_half:.3f}",
            "yes" if entry.inside else "no",
            MISSING
            if not found.probes_done
            else f"{100 * own.recall:.0f} % ({100 * own.recall_low:.0f} to {100 * own.recall_high:.0f})",
            percent(entry.recall),
            entry.layout,
        ]
        lines.append(line)
    return lines


def inside(found: ConversionFound) -> str:
    """How many finalists lie in their intervals; of recall only where there are probes."""
    kl = sum(entry.inside for entry in found.finalists)
    words = f"{kl} of {len(found.finalists)} lie in the predicted 90 % interval of KL"
    recalls = [
        entry.predicted.recall_low <= entry.recall <= entry.predicted.recall_high
        for entry in found.finalists
        if entry.recall is not None
    ]
    if recalls and found.probes_done:
        words += f", {sum(recalls)} in that of recall"
    return words


def percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.0f} %"


def asked_recall(answer: BudgetAnswer) -> str:
    if not answer.recall_floor:
        return "chosen whatever it recalls"
    return f"chosen to keep at least {percent(answer.recall_floor)} of the recall"


def advice(found: ConversionFound) -> str:
    """The budget that pays, where an answer is refused; else nothing."""
    if all(answer.weights for answer in found.answers):
        return ""
    kept = [entry for entry in found.finalists if not entry.refused]
    if not kept:
        return (
            "Of the layouts that were measured, none loses less: this model is made no faster here"
            " without a training; a higher --max-kl and a lower --min-recall write one to heal"
        )
    best = min(kept, key=lambda entry: entry.share)
    recall = "" if best.recall is None else f" and {percent(best.recall)} of the recall"
    return (
        f"The tightest budget that pays is {math.ceil(1000 * best.share) / 10:g}%: a KL of"
        f" {best.kl:.3f} ± {best.kl_half:.3f}{recall}"
    )


def next_commands(found: ConversionFound) -> list[str]:
    """The healing of the first answer that has weights, and the report."""
    commands = [["flashnas", "report", found.run]]
    if written := [answer.weights for answer in found.answers if answer.weights]:
        healing = ["--distill", found.model, "--data", found.data, "--out", f"{found.run}-healed"]
        commands.insert(0, ["flashnas", "train", written[0], *healing])
    return [shlex.join(words) for words in commands]


def decided(answer: BudgetAnswer) -> str:
    changed = [
        f"{layer.layer}:{layer.chosen}"
        for layer in answer.layers
        if layer.decided and layer.chosen != KEPT
    ]
    return ", ".join(changed) or "nothing"


def undecided(answer: BudgetAnswer) -> str:
    layers = []
    for layer in answer.layers:
        if not layer.decided:
            shares = (f"{name} {100 * share:.0f} %" for name, share in layer.shares.items())
            layers.append(f"layer {layer.layer}: {', '.join(shares)}")
    return "; ".join(layers) or "nothing"


def training(found: ConversionFound) -> str:
    """How replacements were trained."""
    if (trained := found.replacements) is None:
        return "Nothing was trained"
    return (
        f"Replacements were trained on {trained.tokens:,} tokens; held-out error of the layers"
        f" {trained.curve[0][1]:.3f} at first, {trained.curve[-1][1]:.3f} at the end"
    )


# what the template calls
WORDS = {
    function.__name__: function
    for function in (
        percent,
        training,
        inside,
        decided,
        undecided,
        asked_recall,
        advice,
        next_commands,
    )
}
