"""The head of report.html: name, the result or the answer, and the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flashnas.base.text import MISSING, counted, duration, known, number, signed, tokens_text
from flashnas.report.answer_text import REASONS, reasons_of, statements
from flashnas.report.next_steps import next_commands
from flashnas.report.plot_data import front_unit
from flashnas.report.section import Section, render
from flashnas.report.words import best_baseline, counts_line, tokens_words
from flashnas.runs.run import RecordedRun
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
    failed, ended = run.failed, ""
    if not failed.empty:
        reason = str(failed["reason"].mode().iloc[0]).rstrip(".") or MISSING
        count = f"{len(failed)} of {len(failed) + len(run.trained)} trainings failed"
        ended = f" {count}, most often: {reason}."
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
    time = number((best.latency_ms or 0.0) * factor, 4, unit)
    text = f"{start}. The lowest loss is {best.loss:.3f} nats per token ({best.name}, {time})"
    if baseline := best_baseline(run):
        text += f"; {baseline}"
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
    stack = [str(entry("table", "stack") or "")]
    stack += [f"mode {mode}" * bool(mode), f"calibration {calibration}" * bool(calibration)]
    device = entry("table", "device") or entry("table", "name")
    yield "Device", device, " · ".join(filter(None, stack))
    yield "Workload", entry("workload", "name"), ", ".join(workload)
    limits = [
        f"{name} {BOUND.get(name, '≤')} {limit:,g}"
        for name, limit in (entry("budgets") or {}).items()
    ]
    confidence = f"with {run.confidence:.0%} confidence" if run.confidence else ""
    yield "Budget", ", ".join(limits) or "none", confidence
    if run.further_objectives or run.ranks_full:
        planned, detail = entry("scorer", "train_tokens"), ""
        if known(planned) and planned >= 1:
            detail = f"of a full training on {tokens_text(planned)} tokens"
        yield "Objectives", ", ".join(map(title_of, run.objectives)), detail
    yield "Space", entry("space", "name"), ""
    seed = f"seed {entry('seed')}"
    if run.untrained:
        yield "Search", "published trainings", seed
    else:
        yield "Search", entry("sampler"), f"{seed} · {entry('trials_asked')} networks asked for"
    first, _, more = counts_line(run).partition(" · ")
    yield "Trials", first, more
    if not run.untrained:
        proxy = [
            words.format(value)
            for key, words in (
                ("width_factor", "width 1/{}"),
                ("depth_factor", "depth 1/{}"),
                ("tokens", "{:,} tokens each"),
            )
            if known(value := entry("proxy", key))
        ]
        yield "Short training", entry("proxy", "corpus"), " · ".join(proxy)
    earlier = entry("start_from", "runs")
    runs = ", ".join(map(str, earlier)) if isinstance(earlier, list) else ""
    for about, key, names, source, there in (
        ("Bench", "bench", entry("bench", "name"), "bench", "it"),
        ("Started from", "start_from", runs, "run", "there"),
    ):
        if names:
            count = counted(int((run.trained["source"] == source).sum()), "network")
            digest = f"(digest {entry(key, 'digest')})"
            yield about, names, f"{count} of this run with the loss from {there} {digest}"
    if effort := tokens_words(run):
        yield "Effort", effort, ""
    finished = f"finished {entry('finished')}" if entry("finished") else "not finished"
    yield "Run time", duration(entry("seconds"), 1), finished


HEADER = HeaderSection()
