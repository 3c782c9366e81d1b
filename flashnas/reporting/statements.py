"""The answer of a search that ranks by full trainings, in plain English (`templates/answer.txt`),
and the commands that follow from it.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.algorithms.trial import Trial
from flashnas.base.text import names_text, number
from flashnas.reporting.networks import latency_unit, recommended, stack_label
from flashnas.reporting.page import render_text
from flashnas.run_folder.layout import TRAINED, front_path
from flashnas.run_folder.recorded_answer import Answer
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.study.answer import DISTINCT

REASONS = {
    "size": "size",
    "shape": "width against depth",
    "mix": "mix of operators",
}
LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What the answer says: a word or two, and a sentence or two about that; empty for a run
    without one."""
    answer = run.answer
    if answer is None:
        return []
    entries = {entry.hash: entry for entry in run.front}
    chosen, cheapest = recommended(run), entries[answer.cheapest]
    chosen_ms = chosen.latency_ms or 1.0
    outside = {str(row.hash): str(row.outside) for row in rows(run.trials) if row.outside}
    factor, unit = latency_unit(run)

    def ms(latency_ms: float | None) -> str:
        return number(None if latency_ms is None else latency_ms * factor, 4, unit)

    def named(network: Mapping[str, Any]) -> str:
        """The name of a network on the front, else its notation."""
        entry = entries.get(network["hash"])
        return stack_label(network["notation"]) if entry is None else entry.name

    written = render_text(
        "answer.txt",
        run=run,
        answer=answer,
        chosen=chosen,
        cheapest=cheapest,
        saved=1 - (cheapest.latency_ms or 0.0) / chosen_ms,
        standings={standing.hash: standing for standing in answer.standings},
        told_apart=DISTINCT,
        ms=ms,
        named=named,
        chance=lambda probability: f"{min(max(probability, 0.01), 0.99):.2f}",  # none is 0 or 1
        published=_published(answer, chosen.name, ms),
        reasons=reasons_of(answer),
        evidence=answer.ranked_by.endswith("trainings"),
        trained=sum(len(bought["networks"]) for bought in answer.bought),
        tied=[entries[key].name for key in answer.tied],
        outside=outside.get(answer.recommended),
        outside_too=[e.name for e in run.front if e.hash in outside and e is not chosen],
        runs_in=runs_in(run.front),
    )
    # about, words, about, words, ..
    _, *parts = re.split(r"^== (.*)$", written, flags=re.MULTILINE)
    sentences = [re.sub(r" +([;,])", r"\1", " ".join(part.split())) for part in parts[1::2]]
    return [(about, words) for about, words in zip(parts[::2], sentences, strict=True) if words]


def reasons_of(answer: Answer) -> dict[str, float]:
    """The reasons in words."""
    reasons: Mapping[str, Any] = answer.reasons
    return {REASONS[name]: value for name, value in reasons.items()}


def _published(answer: Answer, chosen: str, ms: Any) -> dict[str, list[str]]:
    """The published models by what is expected of them."""
    verdicts = (f"expected to be worse than {chosen}", f"not told apart from {chosen}", "better")
    groups: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
    for model in answer.published:
        odds, time = model["probability"], model["latency_ms"]
        verdict = verdicts[(odds > 1 - DISTINCT) + (odds >= DISTINCT)]
        groups[verdict].append(model["name"] + (f" ({ms(time)})" if time is not None else ""))
    return {verdict: names for verdict, names in groups.items() if names}


# -- what follows ----------------------------------------------------------------------------------


def next_commands(run: RecordedRun) -> list[str]:
    """The commands that train the recommended network and export it; empty without an answer. A
    network that a CPU trains in full gets the tokens that suit its size."""
    if run.answer is None:
        return []
    entry = recommended(run)
    tokens, params = run.answer.train_tokens, entry.figures.get("params") or SMALL_PARAMS
    if params < SMALL_PARAMS:
        tokens = min(tokens, float(f"{TOKENS_EACH * params:.1g}"))
    gpu = " --device cuda" if tokens >= LARGE_TOKENS else ""
    formats = entry.runs_in or {}
    to = formats.get(run.entry("options", "runtime"), next(iter(formats.values()), "hf"))
    config = front_path(run.path, entry)
    path, out = shlex.quote(str(config)), shlex.quote(str(run.path / TRAINED / config.stem))
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens:.0f}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]


def runs_in(front: Sequence[Trial]) -> str:
    """The programs that each finalist runs in, those with equal ones together; "" where none was
    recorded.
    """
    groups = defaultdict[str, list[str]](list)
    for entry in front:
        if entry.runs_in is not None:
            programs = [f"{program} (export --to {to})" for program, to in entry.runs_in.items()]
            own = "transformers with flashnas installed (export --to hf)"
            groups[", ".join(programs) or own].append(entry.name)
    return "; ".join(f"{names_text(names)}: {programs}" for programs, names in groups.items())
