"""What a conversion starts from: the model, what its layers may become and save, the text."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tokenizers import Tokenizer

from flashnas.conversion.choices import (
    Choice,
    Layout,
    key_of,
    offered,
    possible,
)
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.measure import LayoutScore, MeasurementLog, Student
from flashnas.conversion.progress import MeasuringProgress, ShowProgress
from flashnas.conversion.replacements import (
    FOLDER,
    TrainedReplacement,
    read_replacements,
    train_replacements,
)
from flashnas.conversion.texts import Draw, draws, training_rows
from flashnas.conversion.times import RequestTimes, load_times, savings
from flashnas.conversion.weights import Pretrained, load_pretrained, tokenizer_of
from flashnas.network.model import HybridLM
from flashnas.network.precision import fast_dtype

SCORED, FRESH = 0, 1  # draws
DRAWS = 2
SET_PASSES = 0.6  # of a set of changes, which removes layers and begins behind the first ones
Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Conversion:
    """One conversion, with everything loaded and checked. choices: with what they save. saves_ms:
    of each budget. student: of each draw, made when one is needed."""

    config: ConvertConfig
    teacher: HybridLM
    tokenizer: Tokenizer
    times: RequestTimes
    choices: Sequence[Choice]
    saves_ms: Sequence[float]
    measurements: MeasurementLog
    student: Callable[[int], Student]
    show_progress: ShowProgress

    def milliseconds(self, layout: Layout) -> float:
        return self.times.milliseconds(layout)

    def measure(self, draw: int, layout: Layout) -> LayoutScore:
        return self.measurements.get(draw, layout, lambda: self.student(draw))

    def measure_all(self, draw: int, layouts: Sequence[Layout]) -> list[LayoutScore]:
        """With progress."""
        found = []
        for layout in layouts:
            known = (draw, key_of(layout)) in self.measurements.known
            found.append(self.measure(draw, layout))
            self.progress.advance(self.passes(layout), known)
        return found

    def passes(self, layout: Layout) -> float:
        """About the share of the layers that a measurement computes. Single changes are measured in
        the order of the layers, so that those before them are there."""
        return SET_PASSES if len(layout) > 1 else 1 - layout[0].layer / len(self.teacher.blocks)

    def measured(self, draw: int) -> list[tuple[Layout, LayoutScore]]:
        """All that the folder has of a draw, of changes that are offered."""
        choices = {choice.key: choice for choice in self.choices}
        found = []
        for (of_draw, text), score in self.measurements.known.items():
            keys = text.split(", ")
            if of_draw == draw and all(key in choices for key in keys):
                found.append((tuple(choices[key] for key in keys), score))
        return found

    def train_replacements(self, note: Note) -> list[TrainedReplacement]:
        """Train what is to be trained, on text that is not scored."""
        if not any(choice.trained for choice in self.choices):
            return []
        config = self.config
        tokens = self.config.replacement_tokens
        text = training_rows(
            config.data,
            self.tokenizer,
            context=config.context,
            skip=DRAWS * (config.documents + config.prompts),
            tokens=tokens,
            seed=config.seed,
        )
        return train_replacements(
            config.out, self.teacher, self.choices, text, tokens, self.measurements.dtype, note
        )

    @functools.cached_property
    def progress(self) -> MeasuringProgress:
        singles = sum(self.passes((choice,)) for choice in self.choices)
        # the model itself is computed on the second draw, too
        left = 1.0 + SET_PASSES * (self.planned - len(self.choices)) + singles
        return MeasuringProgress(self.show_progress, self.planned, left)

    @property
    def planned(self) -> int:
        """Measurements, at most."""
        return len(self.choices) + self.config.sets + self.config.finalists


def load_conversion(config: ConvertConfig, note: Note, show_progress: ShowProgress) -> Conversion:
    """Read the model, the times and the text, and say what each change saves."""
    model = load_pretrained(config.model)
    architecture = model.network.architecture
    tokenizer = tokenizer_of(model, config.model, config.tokenizer)
    windows = () if config.runtime else config.windows or ()
    all_choices = possible(
        architecture,
        windows,
        config.widths,
        config.keep,
        config.replacements,
        config.replacement_tokens,
    )
    # before the times, which take minutes in llama.cpp: whatever the user got wrong comes first
    text = draws(
        config.data,
        tokenizer,
        context=config.context,
        documents=config.documents,
        prompts=config.prompts,
        count=DRAWS,
        seed=config.seed,
    )
    measurements = _measurement_log(config, _question(config, model, text))
    times = load_times(config, architecture, all_choices, note)
    choices = offered(architecture, times.choices, times.milliseconds)
    for line in (*times.lines(choices), f"matrix products in {measurements.dtype}"):
        note(line)
    saves_ms = savings(config, times, choices)
    network = model.network.to(config.device)

    @functools.lru_cache(maxsize=2)
    def student(draw: int) -> Student:
        # narrower networks keep the same columns on fresh text, and in the weights that are written
        columns = None if draw == SCORED else student(SCORED).columns
        trained = read_replacements(config.out, choices)
        return Student(network, text[draw], measurements.dtype, columns, trained)

    return Conversion(
        config, network, tokenizer, times, choices, saves_ms, measurements, student, show_progress
    )


def _measurement_log(config: ConvertConfig, question: dict[str, Any]) -> MeasurementLog:
    """Where nothing was measured or trained yet, the question may be another one."""
    path = config.out / "measurements.jsonl"
    if path.is_file() and not (config.out / FOLDER).exists() and path.read_bytes().count(b"\n") < 2:
        path.unlink()
    return MeasurementLog(path, question, fast_dtype(config.device))


def _question(config: ConvertConfig, model: Pretrained, text: Sequence[Draw]) -> dict[str, Any]:
    """What measurements depend on."""
    weights, tokens = hashlib.sha256(), hashlib.sha256()
    for tensor in model.network.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    for draw in text:
        tokens.update(draw.documents.tobytes() + draw.prompts.tobytes())
    return {
        "measured": ", ".join(field.name for field in fields(LayoutScore)),
        "weights": weights.hexdigest()[:16],
        "context": config.context,
        "documents": config.documents,
        "prompts": config.prompts,
        "seed": config.seed,
        "tokens": tokens.hexdigest()[:16],
    }
