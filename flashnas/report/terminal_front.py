"""The front as a table for the terminal, and the answer below it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from flashnas.base.hints import printable
from flashnas.report.answer_text import ABOVE, RECOMMENDED, TIED, next_commands, signed, statements, with_sd
from flashnas.report.folding import compressed
from flashnas.report.plot_data import latency_unit
from flashnas.report.text import MISSING, known, number, parameters
from flashnas.runs.front import FrontEntry
from flashnas.runs.run import Run, rows

SHOWN = ("params", "memory_gb", "expected_recall")  # objectives that have a column anyway
WIDTH = 150  # of the lines of the answer
MAX_ORIGIN = 22  # letters of the column `from`
PARTS = {"tokens_repeated": "repeated, because checkpoints were out of reach", "tokens_tasks": "on synthetic tasks",
         "tokens_seeds": "for further seeds of the front"}  # of the tokens of a run


def front_table(run: Run) -> str:
    """Finalists, fastest first, one a line; then the answer, or the best baseline; figures as predicted for the run's
    workload."""
    if not run.front:
        return "the run has no front yet" if run.entry("finished") else "the search has not ended: no front yet"
    factor, unit = latency_unit([f.figures.get("latency_ms") or 0.0 for f in run.front])
    more = {"bound_ms": f"bound ({run.confidence:.0%})" if run.confidence else "bound", "measured_ms": "measured"}
    shown = {name: title for name, title in more.items()
             if any(known(finalist.figures.get(name)) for finalist in run.front)}
    objectives = tuple(name for name in run.further_objectives if name not in SHOWN)
    losses = ("loss", "bits/byte") if not run.ranks_full else (
        "full loss", "P(best)", *([] if run.untrained else ["short loss"]), "recall")
    header = ("#", *objectives, *losses, f"latency ({unit})", "bounds", *shown.values(), "params", "memory", "from",
              "architecture")
    lines = [tuple(map(printable, _row(run, finalist, factor, objectives, tuple(shown)))) for finalist in run.front]
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header) - 1)]
    left = (len(header) - 2, *([0] if run.ranks_full else []))  # the other columns hold numbers

    def joined(cells: tuple[str, ...]) -> str:
        padded = [cell.ljust(width) if column in left else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(cells, widths, strict=False))]
        return "  ".join([*padded, cells[-1]])

    below = _answer(run) if run.answer is not None else _best_baseline(run, factor, unit)
    return "\n".join([joined(header), *map(joined, lines), *below, *misses(run)])


def _answer(run: Run) -> list[str]:
    """What the marks and columns mean, the statements, and the next commands."""
    texts = statements(run)
    wide = max(len(about) for about, _ in texts) + 2
    lines = [f"{RECOMMENDED} recommended  {TIED} not told apart from it  {ABOVE} may exceed the budget; full loss:"
             " expected, as the difference to the recommended one; recall: to a transformer", ""]
    for about, words in texts:
        lines += textwrap.wrap(f"{about:<{wide}}{words}", WIDTH, subsequent_indent=" " * wide, break_long_words=False,
                               break_on_hyphens=False)
    return [*lines, *(f"{'next' if not place else '':<{wide}}{command}"
                      for place, command in enumerate(next_commands(run)))]


def tokens_words(run: Run) -> str:
    """`trained 1,572,864 tokens; 524,288 of them for further seeds of the front; 327,680 saved by rungs, at which 5
    trainings stopped`; empty where nothing was trained."""
    tokens, saved, stopped = (int(run.entry("totals", name) or 0) for name in ("tokens", "tokens_saved", "stopped"))
    if not tokens:
        return ""
    own = run.entry("proxy", "evaluator") is not None
    parts = [f"evaluated {tokens:,} of the evaluator's units" if own else f"trained {tokens:,} tokens"]
    parts += [f"{count:,} of them {why}" for name, why in PARTS.items()
              if (count := int(run.entry("totals", name) or 0))]
    if stopped:
        parts.append(f"{saved:,} saved by rungs, at which {stopped} training{'s' if stopped > 1 else ''} stopped")
    return "; ".join(parts)


def misses(run: Run) -> list[str]:
    """One line that names the finalists that miss a budget as measured."""
    over = [f"{finalist.name} ({', '.join(finalist.missed)})" for finalist in run.front if finalist.missed]
    return [f"over the budget as measured: {', '.join(over)}"] if over else []


def _row(run: Run, finalist: FrontEntry, factor: float, objectives: tuple[str, ...], shown: tuple[str, ...],
         ) -> tuple[str, ...]:
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


def shortened(text: str) -> str:
    """At most MAX_ORIGIN letters."""
    return text if len(text) <= MAX_ORIGIN else f"{text[:MAX_ORIGIN - 1]}…"


def mark_of(run: Run, finalist: FrontEntry) -> str:
    """RECOMMENDED, TIED, or nothing."""
    if run.answer is None:
        return ""
    return RECOMMENDED if finalist.hash == run.answer.recommended else TIED * (finalist.hash in run.answer.tied)


def exceeds(run: Run, finalist: FrontEntry) -> bool:
    """Whether the latency may exceed the budget by its upper bound."""
    upper = finalist.figures.get("upper_ms")
    return run.budget_ms is not None and known(upper) and upper > run.budget_ms


def full_loss_words(run: Run, finalist: FrontEntry) -> str:
    """`+0.026 ± 0.048`, to the recommended network; without an answer the difference to the lowest of the front."""
    figures = finalist.figures
    difference, sd = (figures.get(name) for name in ("full_loss_difference", "full_loss_difference_sd"))
    if known(difference) and known(sd):
        return "0" if run.answer is not None and finalist.hash == run.answer.recommended else with_sd(difference, sd)
    values = [value for one in run.front if known(value := one.figures.get("full_loss"))]
    value = figures.get("full_loss")
    return signed(value - min(values)) if known(value) else MISSING


def recall_words(figures: Mapping[str, float | None]) -> str:
    """`-0.05 ± 0.07`."""
    value, sd = figures.get("expected_recall"), figures.get("expected_recall_sd")
    return with_sd(value, sd, 2) if known(value) and known(sd) else MISSING


def fixed(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if known(value) else MISSING


def loss_words(figures: Mapping[str, float | None]) -> str:
    """`4.389`; the mean of several seeds with its standard error, `4.389 ± 0.004`."""
    loss, error = figures.get("loss"), figures.get("loss_se")
    if not known(loss):
        return MISSING
    return f"{loss:.3f} ± {error:.3f}" if known(error) else f"{loss:.3f}"


def origin_words(finalist: FrontEntry) -> str:
    """`pure d` for a baseline, `trial 17` for what the search found; ` of first` where there are several runs."""
    origin = finalist.origin
    label, place = origin.get("label"), origin.get("trial", origin.get("number"))
    words = str(label) if label and label != "search" else f"trial {place}" if place is not None else "search"
    return f"{words} of {origin['run']}" if "run" in origin else words


def _best_baseline(run: Run, factor: float, unit: str) -> list[str]:
    if run.baselines.empty or run.ranks_full:
        return []
    best = min(rows(run.baselines), key=lambda row: row.loss)
    return [f"best pure-operator baseline: {printable(best.label)}, loss {best.loss:.3f} at"
            f" {best.latency_ms * factor:.2f} {unit}"]
