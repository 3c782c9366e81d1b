"""What `pareto` prints: the trained networks under another question, and what would have to be trained."""

from __future__ import annotations

from flashnas.architecture.folding import compressed
from flashnas.report.plot_data import latency_unit
from flashnas.report.terminal import front_table
from flashnas.report.text import MISSING, columns, duration
from flashnas.report.words import loss_words
from flashnas.search.objectives import TRAINED, title_of
from flashnas.study.rebudget import Rebudgeted
from flashnas.study.refit import Refit, vars_of

MAX_LISTED = 10  # networks to train


def pareto_text(result: Rebudgeted) -> str:
    """The question, the front, and what would have to be trained to answer better."""
    return "\n".join([*_question(result), "", *_front_of(result), "", *_to_train(result)])


def _question(result: Rebudgeted) -> list[str]:
    config = result.run.config
    limits = ", ".join(f"{name} {limit:,.6g}" for name, limit in config["budgets"].items()) or "none"
    table = (config["table"] or {}).get("device") or (config["table"] or {}).get("name") or "as recorded"
    workload = config["workload"]
    within = result.trained - result.outside - sum(result.unanswered.values())
    lines = [f"device    {table}", f"workload "
                                   f" {workload.get('name') if isinstance(workload, dict) else MISSING}",
             f"budget   "
             f" {limits}{f' with {result.run.confidence:.0%} confidence' if result.run.confidence else ''}",
             f"networks  {result.trained} trained in {len(config['runs'])}"
             f" run{'s' if len(config['runs']) > 1 else ''};"
             f" {within} within the budget, {result.outside} outside"]
    if result.too_large:
        lines.append(f"genotypes {result.genotypes} tried in the runs; {result.too_large} without a width"
                     f" within the"
                     " budget")
    lines += [f"left out  {count}: {reason}" for reason, count in result.unanswered.items()]
    return lines


def _front_of(result: Rebudgeted) -> list[str]:
    if result.front:
        return [front_table(result.run)]
    nearest = ", ".join(f"{name} {value:,.6g}" for name, value in (result.nearest or {}).items())
    return [f"no trained network meets the budget; the nearest has {nearest or MISSING}"]


def _to_train(result: Rebudgeted) -> list[str]:
    if not result.refits:
        return _nothing_to_train(result)
    count = len(result.refits)
    paused = sum(refit.paused_tokens is not None for refit in result.refits)
    others, trainings = count - paused, "trainings were" if paused > 1 else "training was"
    genotypes = "genotypes of the runs have" if others > 1 else "genotype of the runs has"
    parts = [*([f"{others} {genotypes} another width within the budget, which was not trained"] if others
               else []),
             *([f"{paused} {trainings} paused at a rung and not continued"] if paused else [])]
    lines = [f"{'; '.join(parts)}{_cost_words(result, count, result.tokens_each)}"]
    factor, unit = latency_unit([refit.metrics.get("latency_ms", 0.0) for refit in result.refits])
    trained = [name for name in result.run.objectives if name in TRAINED]
    header = ("gain", *(f"expected {title_of(name)}" for name in trained), "trained loss",
              f"latency ({unit})", "width",
              "architecture")
    lines += columns([header, *(_network_row(refit, trained,
                                             factor) for refit in result.refits[:MAX_LISTED])])
    if count > MAX_LISTED:
        lines.append(f"and {count - MAX_LISTED} more")
    if not result.commands:
        return [*lines, "fn.search(.., start_from=[RUN, ..]) with the evaluator of the runs scores them"]
    return [*lines, "train the first ones, and search on from all that the runs know:",
            *(f"    {line}" for line in result.commands)]


def _nothing_to_train(result: Rebudgeted) -> list[str]:
    """How to search on; nothing where it is not known what would have to be trained."""
    if not result.genotypes:
        return []
    fit = "none of the genotypes fits the budget at any width" if result.too_large == result.genotypes else (
        "each genotype that fits the budget was tried at its largest width")
    on = "search on from all that the runs know:"
    if not result.commands:
        return [f"nothing to train: {fit}", f"{on} fn.search(.., start_from=[RUN, ..]) with the evaluator of"
                                            f" the runs"]
    return [f"nothing to train: {fit}", on, *(f"    {line}" for line in result.commands)]


def _cost_words(result: Rebudgeted, count: int, tokens: int) -> str:
    parts = [f"{count * tokens:,} tokens"] if tokens else []
    if result.seconds_each is not None:
        parts.append(f"about {duration(count * result.seconds_each)} of one worker, at the mean of the runs")
    return f": {', '.join(parts)}" if parts else ""


def _network_row(refit: Refit, trained: list[str], factor: float) -> tuple[str, ...]:
    expected = [(refit.expected or {}).get(name) for name in trained]
    latency_ms = refit.metrics.get("latency_ms")
    return (MISSING if refit.gain is None else f"{refit.gain:+.2%}",
            *(MISSING if pair is None else f"{pair[0]:.3f} ± {pair[1]:.3f}" for pair in expected),
            MISSING if refit.trained is None else loss_words(vars_of(refit.trained.row)),
            MISSING if latency_ms is None else f"{latency_ms * factor:.2f}", _width(refit),
            compressed(refit.network.notation))


def _width(refit: Refit) -> str:
    """`1024 -> 1280`; `1280, paused at 131,072 tokens` where a training of that network was stopped at a
    rung."""
    width, before = getattr(refit.network, "hidden", None), refit.trained or refit.stopped
    if refit.paused_tokens is not None:
        return f"{width or MISSING}, paused at {refit.paused_tokens:,} tokens"
    hidden = None if before is None else before.row.hidden
    was = MISSING if hidden is None or hidden != hidden else int(hidden)
    return MISSING if width is None else f"{was} -> {width}"
