"""What a conversion starts from: the model, what its layers may become and save, the text."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from flashnas.conversion.choices import Layout, key_of
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.measure import MeasurementLog, Student
from flashnas.conversion.replacements import FOLDER, read_replacements
from flashnas.conversion.times import load_times, savings
from flashnas.data.scored_text import ContextReader, Draw
from flashnas.families.load_pretrained import (
    Pretrained,
    load_pretrained,
    tokenizer_of,
)
from flashnas.network.precision import fast_dtype
from flashnas.training.teacher_text import TextScore

SCORED, FRESH = 0, 1  # draws
DRAWS = 2
SET_PASSES = 0.6  # of a set of changes, which removes layers and begins behind the first ones
Note = Callable[[str], None]
ShowProgress = Callable[[int, int, float], None]  # measurements done, of all, seconds left


class Conversion:
    """One conversion, with everything loaded and checked: `times`, `choices` with what they save,
    the model's own `model_ms`, `saves_ms` of each budget, `text` behind the draws, and the
    `teacher`. What is asked is checked before the weights are read."""

    def __init__(self, config: ConvertConfig, note: Note, show_progress: ShowProgress) -> None:
        self.config, self.show_progress = config, show_progress
        model = load_pretrained(config.model)
        tokenizer, self.special = tokenizer_of(model, config.model, config.tokenizer)
        self.text = ContextReader(config.data, tokenizer, config.context, config.seed)
        self.draws = self.text.draws(config.documents, config.prompts, DRAWS)
        self.times = load_times(config, model.architecture)
        self.choices = self.times.choices
        self.model_ms = self.milliseconds(())
        for line in self.times.lines():
            note(line)
        self.saves_ms = savings(config, self.times)
        self.teacher = model.network.to(config.device)
        question = _question(config, model, self.draws)
        path = config.out / "measurements.jsonl"
        self.measurements = MeasurementLog(path, question, fast_dtype(config.device))
        note(f"matrix products in {self.measurements.dtype}")
        self._students: dict[int, Student] = {}
        # of measurements: those that are planned and done, and passes through the whole network
        # that are to come, and that were computed in so many seconds
        self.sets = config.sets + config.finalists
        self.planned = len(self.choices) + self.sets
        singles = sum(self.passes((choice,)) for choice in self.choices)
        self.left = 1 + SET_PASSES * self.sets + singles
        self.done, self.worked, self.seconds = 0, 1e-9, 0.0

    def student(self, draw: int) -> Student:
        """Made when it is needed. Narrower networks keep the same columns on fresh text, and in the
        weights that are written."""
        if draw not in self._students:
            like = None if draw == SCORED else self.student(SCORED)
            replacements = read_replacements(self.config.out / FOLDER, self.choices)
            dtype = self.measurements.dtype
            began = time.monotonic()
            student = Student(self.teacher, self.draws[draw], dtype, replacements, like)
            self.seconds += time.monotonic() - began
            self.worked += 1
            self._students[draw] = student
        return self._students[draw]

    @property
    def pass_s(self) -> float:
        """Seconds of a pass through the whole network, with all contexts of a draw."""
        return self.seconds / self.worked

    def milliseconds(self, layout: Layout) -> float:
        return self.times.milliseconds(layout)

    def measure(self, draw: int, layout: Layout) -> TextScore:
        key = draw, key_of(layout)
        if key not in self.measurements.known:
            student, began = self.student(draw), time.monotonic()
            self.measurements.add(*key, student.measure(layout))
            self.seconds += time.monotonic() - began
            self.worked += self.passes(layout)
        return self.measurements.known[key]

    def measure_all(self, draw: int, layouts: Sequence[Layout]) -> list[TextScore]:
        """With progress."""
        found = []
        for layout in layouts:
            found.append(self.measure(draw, layout))
            self.done += 1
            self.left -= self.passes(layout)
            left_s = self.pass_s * max(self.left, 0.0) * (self.done < self.planned)
            self.show_progress(self.done, self.planned, left_s)
        return found

    def passes(self, layout: Layout) -> float:
        """About the share of the layers that a measurement computes. Single changes are measured in
        the order of the layers, so that those before them are there."""
        return SET_PASSES if len(layout) > 1 else 1 - layout[0].layer / len(self.teacher.blocks)


def _question(config: ConvertConfig, model: Pretrained, draws: Sequence[Draw]) -> dict[str, Any]:
    """What measurements depend on."""
    tokens = hashlib.sha256()
    for draw in draws:
        tokens.update(draw.documents.tobytes() + draw.prompts.tobytes())
    return {
        "measured": ", ".join(field.name for field in fields(TextScore)),
        "weights": model.digest,
        "device": config.device,
        "context": config.context,
        "documents": config.documents,
        "prompts": config.prompts,
        "seed": config.seed,
        "tokens": tokens.hexdigest()[:16],
    }
