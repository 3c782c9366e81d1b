"""Networks of a run that were trained for longer, in `RUN/trained/NN`, and what models were
evaluated on.

`flashnas train RUN/pareto/NN.yaml --out RUN/trained/NN` makes such a folder.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from flashnas.base.documents import convert
from flashnas.base.errors import RunError
from flashnas.base.foreign import read_json
from flashnas.base.system import write_atomic
from flashnas.run_folder.layout import CONFIG, TRAINED, front_path
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.trials.trial import Trial

EVALUATION = "eval.json"  # beside weights: what `flashnas eval` found


def chosen_weights(folder: Path) -> Path:
    """The weights of the network that a run recommends, or of the lowest loss of its front; raises
    RunError if it has not been trained."""
    run = RecordedRun.load(folder)
    if not run.front:
        raise RunError(f"{folder}: the run has no front yet, so that there is no network to take")
    wanted = run.recommended or min(
        run.front, key=lambda entry: math.inf if entry.loss is None else entry.loss
    )
    for entry, weights in run.trained_models():
        if entry == wanted:
            return weights
    path = front_path(folder, wanted)
    raise RunError(
        f"{folder}: its network {wanted.name} has not been trained; train it with flashnas"
        f" train {path} --out {folder / TRAINED / path.stem}"
    )


def search_of(weights: Path) -> tuple[RecordedRun, Trial] | None:
    """The run in whose folder the weights are, with their network of its front; None for others."""
    weights = weights.absolute()
    folder = weights.parent.parent.parent
    if weights.parent.parent != folder / TRAINED or not (folder / CONFIG).is_file():
        return None
    run = RecordedRun.load(folder)
    return next(((run, entry) for entry, own in run.trained_models() if own == weights), None)


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """Of a text. lossy: documents that the tokenizer does not give back as they are."""

    name: str
    sha256: str
    bits_per_byte: float
    nats_per_token: float
    bytes: int
    tokens: int
    documents: int
    lossy: int
    window: int
    stride: int

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes, windows of {self.window:,} tokens, stride {self.stride:,}"


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """What `flashnas eval` found of weights: texts by their sha256."""

    weights_sha256: str
    texts: dict[str, TextResult] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ModelEvaluation | None:
        """That beside the weights, or None; raises RunError for a damaged file."""
        path = folder / EVALUATION
        if not path.exists():
            return None
        data = read_json(path, RunError)
        if isinstance(data, dict):
            data.pop("tasks", None)  # of 0.2.0
        return convert(data, cls, path, RunError)

    def write(self, folder: Path) -> None:
        write_atomic(folder / EVALUATION, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def figures(self) -> list[tuple[str, str, float, str]]:
        """(text, metric, value, what it depends on)."""
        return [
            (text.name, "bits_per_byte", text.bits_per_byte, str(text))
            for text in self.texts.values()
        ]
