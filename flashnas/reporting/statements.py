"""The answer of a search in sentences, and the commands that follow it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.base.text import INTERVAL_90, fixed, number, tokens_text
from flashnas.reporting.words import (
    LEAST_SILENCE,
    latency_unit,
    recommended,
    render_text,
    shape_of,
    to_time,
)
from flashnas.run_folder.layout import TRAINED, front_path
from flashnas.run_folder.recorded_answer import Answer, DenseOrSparse, Turn
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.study.answer import DISTINCT
from flashnas.study.purchase import LEAST_GAIN

REASONS = {
    "size": "size",
    "shape": "width against depth",
    "mix": "mix of operators",
    "experts": "experts",
}
LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
LIKELY = 0.05  # probability up to which families are named together
NOTABLE = 0.2  # probability from which on it is said that a family is hardly known
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What the answer says: a word or two, and a sentence or two about that; empty for a run
    without one."""
    answer = run.answer
    if answer is None:
        return []
    chosen = recommended(run)
    outside = {str(row.hash): str(row.outside) for row in rows(run.trials) if row.outside}
    factor, unit = latency_unit(run)

    def ms(latency_ms: float | None) -> str:
        return number(None if latency_ms is None else latency_ms * factor, 4, unit)

    families = [(family["family"], family) for family in answer.families]
    transformer = next((f for title, f in families if title.startswith("transformer (")), None)
    written = render_text(
        "answer.txt",
        run=run,
        answer=answer,
        chosen=chosen,
        served=bool(chosen.runs_in),
        chance=chance,
        reasons=REASONS,
        families=_chances(answer),
        best=answer.families[0] if answer.families else None,
        transformer=transformer,
        untested=[
            family["family"].partition(" (")[0]
            for family in answer.families
            if family["silence"] >= LEAST_SILENCE and family["best"] >= NOTABLE
        ],
        bounds=" to ".join(
            fixed((chosen.figures.get(name) or 0.0) * factor, 1 if factor < 1 else 0)
            for name in ("lower_ms", "upper_ms")
        ),
        least_gain=LEAST_GAIN,
        ms=ms,
        factor=factor,
        holds=holds,
        turning_points=turning_points,
        example=shape_of,
        names_by_hash={entry.hash: entry.name for entry in run.front},
        published=_published(answer, chosen.name),
        evidence=answer.ranked_by.endswith("trainings"),
        trained=sum(len(bought["networks"]) for bought in answer.bought),
        outside=outside.get(answer.recommended),
        times=answer.times,
        to_time=to_time(run),
        folder=shlex.quote(str(run.path)),
    )
    # about, words, about, words, ..
    _, *parts = re.split(r"^== (.*)$", written, flags=re.MULTILINE)
    sentences = [re.sub(r" +([;,])", r"\1", " ".join(part.split())) for part in parts[1::2]]
    return [(about, words) for about, words in zip(parts[::2], sentences, strict=True) if words]


def reasons_of(answer: Answer) -> dict[str, float]:
    """The reasons in words."""
    reasons: Mapping[str, Any] = answer.reasons
    return {REASONS[name]: value for name, value in reasons.items()}


def chance(probability: float) -> str:
    """None is 0 or 1."""
    return f"{min(max(probability, 0.01), 0.99):.2f}"


def _chances(answer: Answer) -> list[tuple[str, str]]:
    """Families by how likely each is the best one; the least likely ones together."""
    ordered = sorted(answer.families, key=lambda family: -family["best"])
    likely = [family for family in ordered if family["best"] >= LIKELY]
    others = ordered[len(likely) :]
    found = [(family["family"], chance(family["best"])) for family in likely]
    if len(others) < 2:
        return found + [(family["family"], chance(family["best"])) for family in others]
    return [*found, ("others", chance(sum(family["best"] for family in others)))]


def _published(answer: Answer, chosen: str) -> dict[str, list[str]]:
    """The published models by what is expected of their shapes."""
    verdicts = (f"worse than {chosen}", f"about as good as {chosen}", f"better than {chosen}")
    groups: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
    for model in answer.published:
        if model["latency_ms"] is None:  # of another size than the table answers for
            continue
        odds = model["probability"]
        groups[verdicts[(odds > 1 - DISTINCT) + (odds >= DISTINCT)]].append(model["name"])
    return {verdict: names for verdict, names in groups.items() if names}


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
    asked = run.entry("options", "runtime") or ["hf"]
    to = formats.get(asked[0], "hf")
    config = front_path(run.path, entry)
    path, out = shlex.quote(str(config)), shlex.quote(str(run.path / TRAINED / config.stem))
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens_text(tokens)}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]


def holds(two: DenseOrSparse) -> str:
    """`from 12 GB on, up to batch 4`: where the mean has the sign that it has within the limits."""
    words = [f"from {_agreeing(two['by_memory'][::-1]):.3g} GB on"]
    if two["by_batch"]:
        words.append(f"up to batch {_agreeing(two['by_batch']):.0f}")
    return " and ".join(words)


def _agreeing(turns: Sequence[Turn]) -> float:
    """The last of the first limits at which the sign is that of the first one."""
    first, last = turns[0], turns[0]["limit"]
    for turn in turns:
        if turn["difference"] is None or (turn["difference"] < 0) != (
            (first["difference"] or 0) < 0
        ):
            break
        last = turn["limit"]
    return last


def turning_points(turns: Sequence[Turn], unit: str) -> str:
    """`dense to 4 GB, sparse by the mean at 6 to 12, sparse from 16 on`: which sort is better beyond
    the interval, which by the mean."""
    runs: list[tuple[str, list[float]]] = []
    for turn in turns:
        difference, sd = turn["difference"], turn["sd"]
        if difference is None or sd is None:
            verdict = "one sort alone fits"
        else:
            verdict = "sparse" if difference < 0 else "dense"
            verdict += " by the mean" * (abs(difference) <= INTERVAL_90 * sd)
        if not runs or runs[-1][0] != verdict:
            runs.append((verdict, []))
        runs[-1][1].append(turn["limit"])
    words = (f"{verdict} {_span(limits)}" for verdict, limits in runs)
    return f"{'; '.join(words)} {unit}" if runs else ""


def _span(limits: Sequence[float]) -> str:
    ends = dict.fromkeys((limits[0], limits[-1]))
    return f"at {' to '.join(f'{end:.3g}' for end in ends)}"
