"""The head of report.html: name, the result or the answer, and the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flashnas.base.quantities import tokens_text
from flashnas.report.answer_text import REASONS, reasons_of, statements
from flashnas.report.next_steps import next_commands
from flashnas.report.plot_data import front_unit
from flashnas.report.section import Section, render
from flashnas.report.text import MISSING, counted, duration, known, number, signed
from flashnas.report.words import counts_line, tokens_words
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import title_of

BOUND = {"throughput_tok_s": "≥"}


class HeaderSection(Section):
    """Name, the result in a sentence, and the settings."""

    def html(self, run: RecordedRun) -> str:
        return render(
            "header.html",
            run=run,
            lead="" if run.answer else result_sentence(run),
            answer=statements(run),
            commands=next_commands(run),
            bars=_bars(run),
            facts=list(_facts(run)),
        )


def _bars(run: RecordedRun) -> list[dict[str, Any]]:
    """The reasons of the answer: words, value and the place of the bar, in percent of the width."""
    reasons = {} if run.answer is None else reasons_of(run.answer)
    widest = max([abs(value) for value in reasons.values()] or [0.0]) or 1.0
    return [
        {
            "words": REASONS.get(name, name),
            "value": signed(value),
            "good": value < 0,
            "left": 50 + min(50 * value / widest, 0),
            "width": 50 * abs(value) / widest,
        }
        for name, value in reasons.items()
    ]


def result_sentence(run: RecordedRun) -> str:
    """The result, the best pure-operator baseline to compare with, and how many trainings
    failed.
    """
    failed = run.failed
    ended = (
        ""
        if failed.empty
        else (
            f" {len(failed)} of {len(failed) + len(run.trained)} trainings failed, most often:"
            f" {str(failed['reason'].mode().iloc[0]).rstrip('.') or MISSING}."
        )
    )
    if run.scored.empty:
        return f"No network was trained to the end ({counts_line(run)}).{ended}"
    start = (
        f"{counted(len(run.front), 'architecture')} on the Pareto front"
        if run.front
        else "The search has ended without a front"
        if run.entry("finished")
        else "The search has not ended. What follows is of the networks so far"
    )
    scored = [f for f in run.front if known(f.loss) and known(f.latency_ms)]
    if run.ranks_full or not scored:
        return f"{start}; {counts_line(run)}.{ended}"
    factor, unit = front_unit(run)
    best = min(scored, key=lambda f: f.loss or 0.0)
    text = (
        f"{start}. The lowest loss is {best.loss:.3f} nats per token ({best.name},"
        f" {number((best.latency_ms or 0.0) * factor, 4, unit)})"
    )
    if not run.baselines.empty:
        pure = min(rows(run.baselines), key=lambda row: row.loss)
        text += (
            f"; the best pure-operator baseline is {pure.label} with {pure.loss:.3f} at"
            f" {number(pure.latency_ms * factor, 4, unit)}"
        )
    return f"{text}.{ended}"


def _facts(run: RecordedRun) -> Iterable[tuple[str, Any, str]]:
    """(name, value, detail) of what was asked."""
    entry = run.entry
    mode = entry("table", "mode")
    workload = [
        words.format(value)
        for key, words in (
            ("batch", "batch of {}"),
            ("prompt_tokens", "{:,} tokens in"),
            ("generated_tokens", "{:,} tokens out"),
        )
        if known(value := entry("workload", key)) and value > 0
    ]
    if entry("workload", "dtype") not in (None, "auto"):
        workload.append(str(entry("workload", "dtype")))
    calibration = entry("table", "calibration")
    yield (
        "Device",
        entry("table", "device") or entry("table", "name"),
        " · ".join(
            str(part)
            for part in (
                entry("table", "stack"),
                f"mode {mode}" if mode else "",
                f"calibration {calibration}" if calibration else "",
            )
            if part
        ),
    )
    yield "Workload", entry("workload", "name"), ", ".join(workload)
    yield (
        "Budget",
        ", ".join(
            f"{name} {BOUND.get(name, '≤')} {limit:,g}"
            for name, limit in (entry("budgets") or {}).items()
        )
        or "none",
        (f"with {run.confidence:.0%} confidence" if run.confidence else ""),
    )
    if run.further_objectives or run.ranks_full:
        planned = entry("scorer", "train_tokens")
        yield (
            "Objectives",
            ", ".join(title_of(name) for name in run.objectives),
            (
                f"of a full training on {tokens_text(planned)} tokens"
                if known(planned) and planned >= 1
                else ""
            ),
        )
    yield "Space", entry("space", "name"), ""
    yield (
        "Search",
        "published trainings" if run.untrained else entry("sampler"),
        (
            f"seed {entry('seed')}"
            if run.untrained
            else f"seed {entry('seed')} · {entry('trials_asked')} networks asked for"
        ),
    )
    first, _, more = counts_line(run).partition(" · ")
    yield "Trials", first, more
    width, depth, tokens = (
        entry("proxy", name) for name in ("width_factor", "depth_factor", "tokens")
    )
    if not run.untrained:
        yield (
            "Short training",
            entry("proxy", "corpus"),
            " · ".join(
                filter(
                    None,
                    (
                        f"width 1/{width}" if known(width) else "",
                        f"depth 1/{depth}" if known(depth) and depth > 1 else "",
                        f"{tokens:,} tokens each" if known(tokens) else "",
                    ),
                )
            ),
        )
    earlier = entry("start_from", "runs")
    runs = ", ".join(map(str, earlier)) if isinstance(earlier, list) else ""
    for about, key, names, source, there in (
        ("Bench", "bench", entry("bench", "name"), "bench", "it"),
        ("Started from", "start_from", runs, "run", "there"),
    ):
        if names:
            yield (
                about,
                names,
                (
                    f"{counted(int((run.trained['source'] == source).sum()), 'network')} of this"
                    f" run with the loss from {there} (digest {entry(key, 'digest')})"
                ),
            )
    if effort := tokens_words(run):
        yield "Effort", effort, ""
    finished = entry("finished")
    yield (
        "Run time",
        duration(entry("seconds")),
        f"finished {finished}" if finished else "not finished",
    )


HEADER = HeaderSection()
