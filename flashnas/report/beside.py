"""What an answer compares its front with: pure stacks and published models, for tables and
pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.folding import compressed, parsed
from flashnas.runs.answer import Answer
from flashnas.runs.front import FrontEntry
from flashnas.runs.run import RecordedRun, rows


@dataclass(frozen=True)
class Beside:
    """A pure stack or a published model; its fields are those of an entry of the front. name: in
    pictures, of a stack its notation without the options of the network."""

    name: str
    notation: str
    origin: dict[str, Any]
    figures: dict[str, Any]
    hash: str = ""
    missed: tuple[str, ...] = ()
    path: Path = Path()

    @property
    def architecture(self) -> Architecture | None:
        return parsed(self.notation)


Shown = FrontEntry | Beside


def shown_networks(run: RecordedRun) -> list[Shown]:
    """The front, fastest first; with an answer, below it the other pure stacks, best first, and the
    published models."""
    if run.answer is None:
        return [*run.front]
    return [*run.front, *_stacks(run, run.answer), *_published(run.answer)]


def head_of(notation: str) -> tuple[str, str]:
    """(`2560`, `(meta=256)`): the width of a network and its options."""
    width, bracket, options = notation.partition(":")[0].partition("(")
    return width, bracket + options


def stack_label(notation: str) -> str:
    """`2560: 10x(m2 f)`, without the options of the network."""
    return compressed(notation).replace(f"{head_of(notation)[1]}:", ":", 1)


def _stacks(run: RecordedRun, answer: Answer) -> list[Beside]:
    trials = {row.hash: row for row in rows(run.baselines)}
    stacks = []
    for standing in sorted(answer.baselines, key=lambda each: each.difference):
        if standing.hash in run.finalists[1] or standing.hash not in trials:
            continue
        trial = trials[standing.hash]
        figures = {
            **trial._asdict(),
            "full_loss_difference": standing.difference,
            "full_loss_difference_sd": standing.sd,
            "probability_best": standing.best,
        }
        name, origin = stack_label(trial.notation), {"label": trial.label}
        stacks.append(Beside(name, trial.notation, origin, figures, trial.hash))
    return stacks


def _published(answer: Answer) -> list[Beside]:
    models = []
    for model in answer.known:
        figures = {
            "latency_ms": model["latency_ms"],
            "params": model["params"],
            "expected_recall": model["recall"],
            "silence": model["silence"],
            "full_loss_difference": model["difference"],
            "full_loss_difference_sd": model["sd"],
        }
        models.append(Beside(model["name"], model["name"], {"label": "published"}, figures))
    return models
