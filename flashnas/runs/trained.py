"""Networks of a run that were trained for longer, in `RUN/trained/NN`, and what models were evaluated on.

`flashnas train RUN/pareto/NN.yaml --out RUN/trained/NN` makes such a folder; a report and a model card then
have what the search says of the network beside what its training gave.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import RunError
from flashnas.base.files import write_atomic
from flashnas.base.foreign import read_json
from flashnas.base.schema import convert
from flashnas.runs.front import FrontEntry
from flashnas.runs.layout import CONFIG
from flashnas.runs.run import RecordedRun

TRAINED = "trained"           # folder: of trainings, `flashnas train`
WEIGHTS = "final"             # in each of them: the folder of its weights
EVALUATION = "eval.json"      # beside weights: what `flashnas eval` found


def trained_models(run: RecordedRun) -> list[tuple[FrontEntry, Path]]:
    """Networks of the front that were trained, in the order of the front, each with its folder of weights.

    Only the vocabulary may be another one, since a training takes that of its text.
    """
    folders = sorted((run.path / TRAINED).glob(f"*/{WEIGHTS}/architecture.yaml"))
    trained = [(load_architecture(str(path)), path.parent) for path in folders]
    return [(entry, folder) for entry in run.front for network, folder in trained
            if isinstance(entry.architecture, Architecture) and entry.architecture.hash == dataclasses.replace(
                network, vocab=entry.architecture.vocab).hash]


def chosen_weights(folder: Path) -> Path:
    """The weights of the network that a run recommends: that of its answer, else the lowest loss of its
    front.

    Raises:
        RunError: it has no front, or that network has not been trained.
    """
    run = RecordedRun.load(folder)
    if not run.front:
        raise RunError(f"{folder}: the run has no front yet, so that there is no network to take")
    chosen = min(run.front, key=lambda entry: (run.answer is not None and entry.hash != run.answer.recommended,
                                               float("inf") if entry.loss is None else entry.loss))
    for entry, weights in trained_models(run):
        if entry == chosen:
            return weights
    raise RunError(f"{folder}: its network {chosen.name} has not been trained; train it with flashnas train"
                   f" {chosen.path} --out {folder / TRAINED / chosen.path.stem}")


def search_of(weights: Path) -> tuple[RecordedRun, FrontEntry] | None:
    """The run in whose folder the weights are, with their network of its front; None for others."""
    training = weights.absolute().parent
    if training.parent.name != TRAINED or not (training.parents[1] / CONFIG).is_file():
        return None
    run = RecordedRun.load(training.parents[1])
    return next(((run, entry) for entry, folder in trained_models(run)
                 if folder.parent.name == training.name), None)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `flashnas eval` found of one model.

    weights_sha256: of the file of its weights. texts: by the sha256 of the text: its `name`,
    `bits_per_byte`, and what these depend on. tasks: by name: `metrics` and what they depend on.
    """

    weights_sha256: str
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Evaluation | None:
        """That beside the weights, or None; raises RunError for a damaged file."""
        path = folder / EVALUATION
        if not path.exists():
            return None
        found = convert(read_json(path, RunError), cls, path, RunError)
        for place, kind, entries in (("texts", _Text, found.texts), ("tasks", _Task, found.tasks)):
            for name, entry in entries.items():
                convert(entry, kind, path, RunError, name=f"{place}.{name}")
        return found

    def write(self, folder: Path) -> None:
        """Replace eval.json beside the weights."""
        write_atomic(folder / EVALUATION, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def figures(self) -> list[tuple[str, str, float, str]]:
        """(text or task, metric, value, what it depends on), texts first."""
        return [*((text["name"], "bits_per_byte", text["bits_per_byte"],
                   f"{text['bytes']:,} bytes, windows of {text['window']:,} tokens, stride {text['stride']:,}")
                  for text in self.texts.values()),
                *((name, metric, value, f"{task['samples']:,} samples, {task['shots']} shots, lm-eval"
                   f" {task['lm_eval']}"
                   + (f", standard error {task['errors'][metric]:.4f}" if metric in task["errors"] else ""))
                  for name, task in self.tasks.items() for metric, value in task["metrics"].items())]


@dataclass(frozen=True, kw_only=True)
class _Text:
    name: str
    bits_per_byte: float
    bytes: int
    window: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class _Task:
    metrics: dict[str, float]
    errors: dict[str, float]
    samples: int
    shots: int
    lm_eval: str
