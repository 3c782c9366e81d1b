"""What commands print of networks: the front and its answer, other budgets, an estimate."""

from __future__ import annotations

import shlex
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flashnas.architecture.folding import compressed
from flashnas.base.hints import printable
from flashnas.base.quantities import tokens_text
from flashnas.report.answer_text import ABOVE, RECOMMENDED, TIED, next_commands, statements
from flashnas.report.plot_data import latency_unit
from flashnas.report.text import MISSING, columns, duration, known, number, parameters
from flashnas.report.words import (
    exceeds,
    fixed,
    full_loss_words,
    loss_words,
    mark_of,
    misses,
    origin_words,
    recall_words,
    shortened,
)
from flashnas.reuse.rerank import Reranked
from flashnas.reuse.resized import Resized
from flashnas.runs.front import FrontEntry
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import TRAINED, title_of

if TYPE_CHECKING:
    from flashnas.architecture import Architecture
    from flashnas.evidence.expected import Expected
    from flashnas.latency.estimate import Estimate
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.workload import Workload

OWN_COLUMN = ("params", "memory_gb", "expected_recall")  # objectives that have a column anyway
WIDTH = 150  # of the lines of the answer


def front_table(run: RecordedRun) -> str:
    """Finalists, fastest first, one a line; then the answer, or the best baseline; figures as predicted for
    the run's workload."""
    if not run.front:
        return ("the run has no front yet" if run.entry("finished") else
                "the search has not ended: no front yet")
    factor, unit = latency_unit([f.figures.get("latency_ms") or 0.0 for f in run.front])
    more = {"bound_ms": f"bound ({run.confidence:.0%})" if run.confidence else "bound",
            "measured_ms": "measured"}
    shown = {name: title for name, title in more.items()
             if any(known(finalist.figures.get(name)) for finalist in run.front)}
    objectives = tuple(name for name in run.further_objectives if name not in OWN_COLUMN)
    losses = ("loss", "bits/byte") if not run.ranks_full else (
        "full loss", "P(best)", *([] if run.untrained else ["short loss"]), "recall")
    header = ("#", *objectives, *losses, f"latency ({unit})", "bounds", *shown.values(), "params", "memory",
              "from",
              "architecture")
    lines = [_row(run, finalist, factor, objectives, tuple(shown)) for finalist in run.front]
    left = (len(header) - 2, *([0] if run.ranks_full else []))  # the other columns hold numbers
    below = _answer(run) if run.answer is not None else _best_baseline(run, factor, unit)
    return "\n".join([*columns([header, *lines], left), *below, *misses(run)])


def _answer(run: RecordedRun) -> list[str]:
    """What the marks and columns mean, the statements, and the next commands."""
    texts = statements(run)
    wide = max(len(about) for about, _ in texts) + 2
    lines = [f"{RECOMMENDED} recommended  {TIED} not told apart from it  {ABOVE} may exceed the budget; full"
             f" loss:"
             " expected, as the difference to the recommended one; recall: to a transformer", ""]
    for about, words in texts:
        lines += textwrap.wrap(f"{about:<{wide}}{words}", WIDTH, subsequent_indent=" " * wide,
                               break_long_words=False,
                               break_on_hyphens=False)
    return [*lines, *(f"{'next' if not place else '':<{wide}}{command}"
                      for place, command in enumerate(next_commands(run)))]


def _row(run: RecordedRun, finalist: FrontEntry, factor: float, objectives: tuple[str, ...],
         shown: tuple[str, ...]) -> tuple[str, ...]:
    figures = finalist.figures

    def scaled(name: str) -> str:
        value = figures.get(name)
        return f"{value * factor:.2f}" if known(value) else MISSING

    name: str = finalist.name
    losses: tuple[str, ...] = (loss_words(figures), fixed(figures.get("bits_per_byte"), 3))
    bounds = f"{scaled('lower_ms')}..{scaled('upper_ms')}"
    if run.ranks_full:
        name = f"{name} {mark_of(run, finalist)}".rstrip()
        losses = (full_loss_words(run, finalist), fixed(figures.get("probability_best"), 2),
                  *([] if run.untrained else losses[:1]), recall_words(figures))
        bounds += " " + (ABOVE if exceeds(run, finalist) else " ")
    more = (scaled(name) + ("!" if name == "measured_ms" and finalist.missed else "") for name in shown)
    asked = (number(figures.get(name), 3) for name in objectives)
    return (name, *asked, *losses, scaled("latency_ms"), bounds, *more, parameters(figures.get("params")),
            number(figures.get("memory_gb"), 3, "GB"), shortened(origin_words(finalist)),
            compressed(finalist.notation))


def _best_baseline(run: RecordedRun, factor: float, unit: str) -> list[str]:
    if run.baselines.empty or run.ranks_full:
        return []
    best = min(rows(run.baselines), key=lambda row: row.loss)
    return [f"best pure-operator baseline: {printable(best.label)}, loss {best.loss:.3f} at"
            f" {best.latency_ms * factor:.2f} {unit}"]


# -- other budgets -------------------------------------------------------------------------------------------

MAX_LISTED = 10  # networks to train
NEXT_SEARCH = "next_search.yaml"


def pareto_text(answer: Reranked, next_searches: Sequence[Path]) -> str:
    """The question, the front, and what would have to be trained to answer better. next_searches: files of
    options of `flashnas search` that were written."""
    return "\n".join([*_question(answer), "", *_front_of(answer), "", *_to_train(answer, next_searches)])


def _question(answer: Reranked) -> list[str]:
    config = answer.run.config
    limits = ", ".join(f"{name} {limit:,.6g}" for name, limit in config["budgets"].items()) or "none"
    limits += f" with {answer.run.confidence:.0%} confidence" if answer.run.confidence else ""
    table = config["table"] or {}
    workload = config["workload"]
    within = answer.trained - answer.outside - sum(answer.unanswered.values())
    lines = [f"device    {table.get('device') or table.get('name') or 'as recorded'}",
             f"workload  {workload.get('name') if isinstance(workload, dict) else MISSING}",
             f"budget    {limits}",
             f"networks  {answer.trained} trained in {len(config['runs'])}"
             f" run{'s' * (len(config['runs']) > 1)}; {within} within the budget, {answer.outside} outside"]
    if answer.too_large:
        lines.append(f"genotypes {answer.genotypes} tried in the runs; {answer.too_large} without a width"
                     " within the budget")
    return lines + [f"left out  {count}: {reason}" for reason, count in answer.unanswered.items()]


def _front_of(answer: Reranked) -> list[str]:
    if answer.run.front:
        return [front_table(answer.run)]
    nearest = ", ".join(f"{name} {value:,.6g}" for name, value in (answer.nearest or {}).items())
    return [f"no trained network meets the budget; the nearest has {nearest or MISSING}"]


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
    """The search whose options a file holds."""
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
    header = ("gain", *(f"expected {title_of(name)}" for name in trained), "trained loss",
              f"latency ({unit})", "width", "architecture")
    listed = [_network_row(resized, trained, factor) for resized in networks[:MAX_LISTED]]
    lines = ["; ".join(parts) + (f": {', '.join(costs)}" if costs else ""), *columns([header, *listed])]
    return lines + ([f"and {count - MAX_LISTED} more"] if count > MAX_LISTED else [])


def _network_row(resized: Resized, trained: list[str], factor: float) -> tuple[str, ...]:
    expected = [(resized.expected or {}).get(name) for name in trained]
    latency_ms = resized.metrics.get("latency_ms")
    return (MISSING if resized.gain is None else f"{resized.gain:+.2%}",
            *(MISSING if pair is None else f"{pair[0]:.3f} ± {pair[1]:.3f}" for pair in expected),
            MISSING if resized.trained is None else loss_words(resized.trained.row._asdict()),
            MISSING if latency_ms is None else f"{latency_ms * factor:.2f}", _width(resized),
            compressed(resized.network.notation))


def _width(resized: Resized) -> str:
    """`1024 -> 1280`; `1280, paused at 131,072 tokens` where a training of that network was stopped at a
    rung."""
    width, before = getattr(resized.network, "hidden", None), resized.trained or resized.stopped
    if resized.paused_tokens is not None:
        return f"{width or MISSING}, paused at {resized.paused_tokens:,} tokens"
    hidden = None if before is None else before.row.hidden
    was = MISSING if hidden is None or hidden != hidden else int(hidden)
    return MISSING if width is None else f"{was} -> {width}"


# -- an estimate ---------------------------------------------------------------------------------------------

def estimate_text(architecture: Architecture, estimate: Estimate, full: Expected, table: LatencyTable,
                  workload: Workload) -> str:
    """Several lines: what was estimated, the metrics with their bounds, time by operator and source, the
    sources."""
    lines = [
        compressed(architecture.notation),
        f"{estimate.params / 1e9:.3f}B parameters, hash {architecture.hash}",
        f"{table.name} ({table.stack}), workload {workload.name}: batch {estimate.batch},"
        f" {workload.prompt_tokens} tokens in, {workload.generated_tokens} out",
        "",
        f"latency_ms        {estimate.latency_ms:>12,.1f}   between {estimate.lower_ms:,.1f} and"
        f" {estimate.upper_ms:,.1f}",
        f"ttft_ms           {estimate.ttft_ms:>12,.3f}{_between(estimate, 'ttft_ms', 3)}",
        f"tpot_ms           {estimate.tpot_ms:>12,.4f}{_between(estimate, 'tpot_ms', 4)}",
        f"throughput_tok_s  {estimate.throughput_tok_s:>12,.1f}{_between(estimate, 'throughput_tok_s', 1)}",
        f"memory_gb         {estimate.memory_gb:>12,.2f}",
        *(f"note: {note}" for note in estimate.notes),
        "",
        *_full_training(full),
        "",
    ]
    shares: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for part in estimate.breakdown:
        total = shares[(part["operator"], part["source"])]
        total[0] += part["ms"]
        total[1] += part["share"]
    width = max((len(name) for name, _ in shares), default=8)
    lines += [f"{'operator':<{width}}  {'source':<9} {'ms':>12}  share"]
    lines += [f"{name:<{width}}  {source:<9} {ms:>12,.1f}  {share:6.1%}"
              for (name, source), (ms, share) in sorted(shares.items(), key=lambda entry: -entry[1][0])]
    sources = ", ".join(f"{name} {share:.1%}" for name, share in estimate.sources.items())
    return "\n".join([*lines, "", f"sources: {sources}"])


def _full_training(full: Expected) -> list[str]:
    """What a full training is expected to give, from what others have trained."""
    return [
        f"full_loss         {full.full_loss:>12,.3f}   nats per token after {tokens_text(full.train_tokens)}"
        f" tokens, up"
        " to a constant of the text",
        f"                  {full.full_loss_difference:>+12,.3f}   +- {full.full_loss_sd:.3f} to the plain"
        f" transformer"
        " of as many parameters",
        f"recall            {full.recall:>+12,.3f}   +- {full.recall_sd:.3f} of full marks, to the same",
        *(f"note: outside the published trainings: {words}" for words in full.outside),
    ]


def _between(estimate: Estimate, metric: str, digits: int) -> str:
    """The bounds of a metric; empty where it has none, as the time to the first token without a prompt."""
    lower, upper = estimate.bounds[metric]
    return f"   between {lower:,.{digits}f} and {upper:,.{digits}f}" if upper else ""
