"""What `pareto` prints: the trained networks under another question, and what would have to be trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from flashnas.architecture.folding import compressed
from flashnas.report.plot_data import latency_unit
from flashnas.report.terminal import front_table
from flashnas.report.text import MISSING, columns, counted, duration, known
from flashnas.report.words import fixed
from flashnas.reuse.rerank import Reranked
from flashnas.reuse.resized import Resized
from flashnas.search.objectives import TRAINED, title_of

MAX_LISTED = 10  # networks to train
NEXT_SEARCH = "next_search.yaml"


def pareto_text(answer: Reranked, next_searches: Sequence[Path]) -> str:
    """The question, the front, and what would have to be trained to answer better. next_searches: files of
    options of `flashnas search` that were written."""
    run, config = answer.run, answer.run.config
    limits = _metrics(config["budgets"]) or "none"
    if run.confidence:
        limits += f" with {run.confidence:.0%} confidence"
    within = answer.trained - answer.outside - sum(answer.unanswered.values())
    lines = [f"device    {run.entry('table', 'device') or run.entry('table', 'name') or 'as recorded'}",
             f"workload  {run.entry('workload', 'name') or MISSING}", f"budget    {limits}",
             f"networks  {answer.trained} trained in {counted(len(config['runs']), 'run')}; {within} within"
             f" the budget, {answer.outside} outside"]
    if answer.too_large:
        lines.append(f"genotypes {answer.genotypes} tried in the runs; {answer.too_large} without a width"
                     " within the budget")
    lines += [f"left out  {count}: {reason}" for reason, count in answer.unanswered.items()]
    front = front_table(run) if run.front else (
        f"no trained network meets the budget; the nearest has {_metrics(answer.nearest or {}) or MISSING}")
    return "\n".join([*lines, "", front, "", *_to_train(answer, next_searches)])


def _metrics(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.6g}" for name, value in values.items())


def _to_train(answer: Reranked, next_searches: Sequence[Path]) -> list[str]:
    """What was not trained, and how to search on; nothing where it is not known."""
    networks = answer.to_train.networks
    if not networks and not answer.genotypes:
        return []
    on = "search on from all that the runs know:"
    if networks:
        lines, on = _networks_to_train(answer), f"train the first ones, and {on}"
    elif answer.too_large == answer.genotypes:
        lines = ["nothing to train: none of the genotypes fits the budget at any width"]
    else:
        lines = ["nothing to train: each genotype that fits the budget was tried at its largest width"]
    if not answer.to_train.searches:
        return [*lines, f"{on} fn.search(.., start_from=[RUN, ..]) with the evaluator of the runs"]
    if not next_searches:
        return [*lines, f"{on} --out DIR writes the options of that search to DIR/{NEXT_SEARCH}"]
    return [*lines, on, *(f"    {next_command(path)}" for path in next_searches)]


def next_command(path: Path) -> str:
    return shlex.join(["flashnas", "search", "--config", str(path), "--out", str(path.with_suffix(""))])


def _networks_to_train(answer: Reranked) -> list[str]:
    networks = answer.to_train.networks
    count, paused = len(networks), sum(resized.paused_tokens is not None for resized in networks)
    others, trainings = count - paused, "trainings were" if paused > 1 else "training was"
    genotypes = "genotypes of the runs have" if others > 1 else "genotype of the runs has"
    parts = [*([f"{others} {genotypes} another width within the budget, which was not trained"] if others
               else []),
             *([f"{paused} {trainings} paused at a rung and not continued"] if paused else [])]
    costs = [f"{count * answer.tokens_each:,} tokens"] if answer.tokens_each else []
    if answer.seconds_each is not None:
        costs.append(f"about {duration(count * answer.seconds_each)} of one worker, at the mean of the runs")
    factor, unit = latency_unit([resized.metrics.get("latency_ms", 0.0) for resized in networks])
    trained = [name for name in answer.run.objectives if name in TRAINED]
    lines = [("gain", *(f"expected {title_of(name)}" for name in trained), "trained loss",
              f"latency ({unit})", "width", "architecture")]
    for resized in networks[:MAX_LISTED]:
        expected = [(resized.expected or {}).get(name) for name in trained]
        latency_ms = resized.metrics.get("latency_ms")
        lines.append((
            MISSING if resized.gain is None else f"{resized.gain:+.2%}",
            *(MISSING if pair is None else f"{pair[0]:.3f} ± {pair[1]:.3f}" for pair in expected),
            MISSING if resized.trained is None else fixed(resized.trained.row.loss, 3),
            MISSING if latency_ms is None else f"{latency_ms * factor:.2f}", _width(resized),
            compressed(resized.network.notation)))
    return ["; ".join(parts) + (f": {', '.join(costs)}" if costs else ""), *columns(lines),
            *([f"and {count - MAX_LISTED} more"] if count > MAX_LISTED else [])]


def _width(resized: Resized) -> str:
    """`1024 -> 1280`; `1280, paused at 131,072 tokens` where a training of that network was stopped at a
    rung."""
    width, before = getattr(resized.network, "hidden", None), resized.trained or resized.stopped
    if resized.paused_tokens is not None:
        return f"{width or MISSING}, paused at {resized.paused_tokens:,} tokens"
    hidden = None if before is None else before.row.hidden
    return MISSING if width is None else f"{int(hidden) if known(hidden) else MISSING} -> {width}"
