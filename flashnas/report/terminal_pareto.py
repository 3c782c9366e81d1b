"""The answer of `flashnas pareto` for the terminal."""

from __future__ import annotations

from flashnas.report.folding import compressed
from flashnas.report.plot_data import latency_unit
from flashnas.report.terminal_front import front_table, loss_words
from flashnas.report.text import MISSING, duration
from flashnas.search.objectives import TRAINED, title_of
from flashnas.study.rebudget import Rebudgeted
from flashnas.study.refit import Refit, vars_of

SHOWN = 10  # networks to train that are listed


def pareto_text(found: Rebudgeted) -> str:
    """The question, the front, and what would have to be trained to answer better."""
    return "\n".join([*_question(found), "", *_front(found), "", *_to_train(found)])


def _question(found: Rebudgeted) -> list[str]:
    config = found.run.config
    limits = ", ".join(f"{name} {limit:,.6g}" for name, limit in config["budgets"].items()) or "none"
    table = (config["table"] or {}).get("device") or (config["table"] or {}).get("name") or "as recorded"
    workload = config["workload"]
    within = found.trained - found.outside - sum(found.unanswered.values())
    lines = [f"device    {table}", f"workload  {workload.get('name') if isinstance(workload, dict) else MISSING}",
             f"budget    {limits}{f' with {found.run.confidence:.0%} confidence' if found.run.confidence else ''}",
             f"networks  {found.trained} trained in {len(config['runs'])} run{'s' if len(config['runs']) > 1 else ''};"
             f" {within} within the budget, {found.outside} outside"]
    if found.too_large:
        lines.append(f"genotypes {found.genotypes} tried in the runs; {found.too_large} without a width within the"
                     " budget")
    lines += [f"left out  {count}: {reason}" for reason, count in found.unanswered.items()]
    return lines


def _front(found: Rebudgeted) -> list[str]:
    if found.front:
        return [front_table(found.run)]
    nearest = ", ".join(f"{name} {value:,.6g}" for name, value in (found.nearest or {}).items())
    return [f"no trained network meets the budget; the nearest has {nearest or MISSING}"]


def _to_train(found: Rebudgeted) -> list[str]:
    if not found.refits:
        return _nothing_to_train(found)
    count = len(found.refits)
    paused = sum(one.paused_tokens is not None for one in found.refits)
    others, trainings = count - paused, "trainings were" if paused > 1 else "training was"
    genotypes = "genotypes of the runs have" if others > 1 else "genotype of the runs has"
    parts = [*([f"{others} {genotypes} another width within the budget, which was not trained"] if others else []),
             *([f"{paused} {trainings} paused at a rung and not continued"] if paused else [])]
    lines = [f"{'; '.join(parts)}{_cost_words(found, count, found.tokens_each)}"]
    factor, unit = latency_unit([one.metrics.get("latency_ms", 0.0) for one in found.refits])
    trained = [name for name in found.run.objectives if name in TRAINED]
    header = ("gain", *(f"expected {title_of(name)}" for name in trained), "trained loss", f"latency ({unit})", "width",
              "architecture")
    table = [header, *(_row(one, trained, factor) for one in found.refits[:SHOWN])]
    widths = [max(len(row[column]) for row in table) for column in range(len(header) - 1)]
    lines += ["  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
              for row in table]
    if count > SHOWN:
        lines.append(f"and {count - SHOWN} more")
    if not found.commands:
        return [*lines, "fn.search(.., start_from=[RUN, ..]) with the evaluator of the runs scores them"]
    return [*lines, "train the first ones, and search on from all that the runs know:",
            *(f"    {line}" for line in found.commands)]


def _nothing_to_train(found: Rebudgeted) -> list[str]:
    """How to search on; nothing where it is not known what would have to be trained."""
    if not found.genotypes:
        return []
    fit = "none of the genotypes fits the budget at any width" if found.too_large == found.genotypes else (
        "each genotype that fits the budget was tried at its largest width")
    on = "search on from all that the runs know:"
    if not found.commands:
        return [f"nothing to train: {fit}", f"{on} fn.search(.., start_from=[RUN, ..]) with the evaluator of the runs"]
    return [f"nothing to train: {fit}", on, *(f"    {line}" for line in found.commands)]


def _cost_words(found: Rebudgeted, count: int, tokens: int) -> str:
    parts = [f"{count * tokens:,} tokens"] if tokens else []
    if found.seconds_each is not None:
        parts.append(f"about {duration(count * found.seconds_each)} of one worker, at the mean of the runs")
    return f": {', '.join(parts)}" if parts else ""


def _row(one: Refit, trained: list[str], factor: float) -> tuple[str, ...]:
    expected = [(one.expected or {}).get(name) for name in trained]
    latency_ms = one.metrics.get("latency_ms")
    return (MISSING if one.gain is None else f"{one.gain:+.2%}",
            *(MISSING if pair is None else f"{pair[0]:.3f} ± {pair[1]:.3f}" for pair in expected),
            MISSING if one.trained is None else loss_words(vars_of(one.trained.row)),
            MISSING if latency_ms is None else f"{latency_ms * factor:.2f}", _width(one),
            compressed(one.network.notation))


def _width(one: Refit) -> str:
    """`1024 -> 1280`; `1280, paused at 131,072 tokens` where a training of that network was stopped at a rung."""
    width, before = getattr(one.network, "hidden", None), one.trained or one.stopped
    if one.paused_tokens is not None:
        return f"{width or MISSING}, paused at {one.paused_tokens:,} tokens"
    hidden = None if before is None else before.row.hidden
    return MISSING if width is None else f"{MISSING if hidden is None or hidden != hidden else int(hidden)} -> {width}"
