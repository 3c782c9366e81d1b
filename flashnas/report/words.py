"""What is said of a run and of its finalists in a few words, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flashnas.base.text import MISSING, counted, known, printable, shortened, signed, with_interval
from flashnas.report.answer_text import RECOMMENDED, TIED
from flashnas.report.beside import Shown
from flashnas.report.plot_data import front_unit
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.trial import COMPUTED_ELSEWHERE

LEAST_SILENCE = 0.0005  # nats, from which on a table shows it
MARKS = {RECOMMENDED: "recommended", TIED: "not told apart", "": ""}


def place_words(run: RecordedRun) -> list[str]:
    """The workload and the device, as far as they are known."""
    parts = (
        run.entry("workload", "name"),
        run.entry("table", "device") or run.entry("table", "name"),
    )
    return [str(part) for part in parts if part]


def counts_line(run: RecordedRun) -> str:
    """`24 searched + 6 baselines trained · 90 from a bench · 2 failed · 3 outside the budget · 4
    repeats`.
    """
    counts, from_bench = run.counts(), run.trained["source"].isin(COMPUTED_ELSEWHERE)
    own = run.scored if run.untrained else run.trained[~from_bench]
    pure = int((own["origin"] == "baseline").sum())
    baselines = f" + {counted(pure, 'baseline')}" if pure else ""
    if run.untrained:
        return f"{len(own) - pure} found{baselines} by published trainings · nothing was trained"
    parts = [f"{len(own) - pure} searched{baselines} trained"]
    parts += [
        f"{count} {words}"
        for name, words in (("bench", "from a bench"), ("run", "from earlier runs"))
        if (count := int((run.trained["source"] == name).sum()))
    ]
    words = {"failed": "failed", "infeasible": "outside the budget"}
    parts += [f"{counts[state]} {text}" for state, text in words.items() if counts[state]]
    parts += [counted(counts["reused"], "repeat")] * bool(counts["reused"])
    return " · ".join(parts)


def tokens_words(run: RecordedRun) -> str:
    """`trained 1,572,864 tokens`; empty without a training."""
    tokens = run.entry("totals", "tokens")
    return f"trained {tokens:,.0f} tokens" if known(tokens) and tokens else ""


def misses(run: RecordedRun) -> list[str]:
    """One line that names the finalists that miss a budget as measured."""
    over = [f"{entry.name} ({', '.join(entry.missed)})" for entry in run.front if entry.missed]
    return [f"over the budget as measured: {', '.join(over)}"] if over else []


def best_baseline(run: RecordedRun) -> str:
    """The best baseline of a front by the short loss; empty without one."""
    if run.baselines.empty or run.ranks_full:
        return ""
    best, (factor, unit) = min(rows(run.baselines), key=lambda row: row.loss), front_unit(run)
    time = f"{best.latency_ms * factor:.2f} {unit}"
    return f"best pure-operator baseline: {printable(best.label)}, loss {best.loss:.3f} at {time}"


def mark_of(run: RecordedRun, shown: Shown) -> str:
    if run.answer is None or shown.hash not in (run.answer.recommended, *run.answer.tied):
        return ""
    return RECOMMENDED if shown.hash == run.answer.recommended else TIED


def exceeds(run: RecordedRun, shown: Shown) -> bool:
    upper = shown.figures.get("upper_ms")
    return run.budget_ms is not None and known(upper) and upper > run.budget_ms


def full_loss_words(run: RecordedRun, shown: Shown) -> str:
    """`+0.026 ± 0.079`, to the recommended network; without an answer, to the lowest of the
    front.
    """
    figures = shown.figures
    difference, sd = (
        figures.get(name) for name in ("full_loss_difference", "full_loss_difference_sd")
    )
    if known(difference) and known(sd):
        chosen = run.answer is not None and shown.hash == run.answer.recommended
        return "0" if chosen else with_interval(difference, sd)
    values = [value for entry in run.front if known(value := entry.figures.get("full_loss"))]
    value = figures.get("full_loss")
    return signed(value - min(values)) if known(value) else MISSING


def fixed(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if known(value) else MISSING


def loss_columns(run: RecordedRun, shown: Sequence[Shown]) -> list[str]:
    """The titles of `loss_cells`; that of silence where one has any."""
    if not run.ranks_full:
        return ["loss", "bits/byte"]
    silent = any((entry.figures.get("silence") or 0.0) >= LEAST_SILENCE for entry in shown)
    short = [] if run.untrained else ["short loss"]
    return ["full loss", "best", *["silence"] * silent, *short, "recall"]


def loss_cells(run: RecordedRun, shown: Shown, columns: Iterable[str]) -> list[str]:
    """What a table shows of the losses of a network under the titles of `loss_columns`."""
    figures = shown.figures
    recall, sd = figures.get("expected_recall"), figures.get("expected_recall_sd")
    texts = {
        "loss": fixed(figures.get("loss"), 3),
        "bits/byte": fixed(figures.get("bits_per_byte"), 3),
        "full loss": full_loss_words(run, shown),
        "best": fixed(figures.get("probability_best"), 2),
        "silence": fixed(figures.get("silence"), 3),
        "short loss": fixed(figures.get("loss"), 3),
        "recall": MISSING,
    }
    if known(recall):
        texts["recall"] = with_interval(recall, sd, 2) if known(sd) else signed(recall, 2)
    return [texts[name] for name in columns]


def origin_words(shown: Shown) -> str:
    """`pure d` for a baseline, `trial 17` of the search; ` of first` where there are several runs.
    At most 22 letters."""
    words = shown.label or f"trial {shown.number}"
    return shortened(f"{words} of {shown.run}" if shown.run else words, 22)
