"""What an answer compares its front with: pure stacks and published models, for tables and
pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.folding import compressed, parsed
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.trial import Trial


@dataclass(frozen=True)
class Beside:
    """A pure stack or a published model; its fields are those of a trial of the front. name: in
    pictures, of a stack its notation without the options of the network."""

    name: str
    notation: str
    label: str
    figures: dict[str, Any]
    hash: str = ""
    missed: tuple[str, ...] = ()
    number: int | None = None
    front_number: int | None = None
    run: str = ""

    @property
    def architecture(self) -> Architecture | None:
        return parsed(self.notation)


Shown = Trial | Beside


def shown_networks(run: RecordedRun) -> list[Shown]:
    """The front, fastest first; with an answer, below it the other pure stacks, best first, and the
    published models."""
    shown: list[Shown] = [*run.front]
    if run.answer is None:
        return shown
    trials = {row.hash: row for row in rows(run.baselines)}
    for standing in sorted(run.answer.baselines, key=lambda standing: standing.difference):
        trial = trials.get(standing.hash)
        if trial is not None and standing.hash not in run.finalists:
            figures = {
                **trial._asdict(),
                "full_loss_difference": standing.difference,
                "full_loss_difference_sd": standing.sd,
                "probability_best": standing.best,
            }
            name = stack_label(trial.notation)
            shown.append(Beside(name, trial.notation, trial.label, figures, trial.hash))
    for model in run.answer.published:
        figures = {
            **model,
            "expected_recall": model["recall"],
            "full_loss_difference": model["difference"],
            "full_loss_difference_sd": model["sd"],
        }
        shown.append(Beside(model["name"], model["name"], "published", figures))
    return shown


def head_of(notation: str) -> tuple[str, str]:
    """(`2560`, `(meta=256)`): the width of a network and its options."""
    width, bracket, options = notation.partition(":")[0].partition("(")
    return width, bracket + options


def stack_label(notation: str) -> str:
    """`2560: 10x(m2 f)`, without the options of the network."""
    return compressed(notation).replace(f"{head_of(notation)[1]}:", ":", 1)
