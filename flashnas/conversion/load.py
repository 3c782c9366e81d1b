"""What a conversion starts from: the model, what its layers may become and save, the text."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flashnas.base.errors import RunError
from flashnas.base.system import disk_errors
from flashnas.conversion.choices import Choice, Layout, key_of, offered, possible
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.measure import MeasurementLog, Student
from flashnas.conversion.progress import MeasuringProgress, ShowProgress
from flashnas.conversion.replacements import (
    TrainedReplacements,
    read_replacements,
    replacement_recipe,
    train_replacements,
    trained,
)
from flashnas.conversion.times import RequestTimes, load_times, savings
from flashnas.data.scored_text import ContextReader, Draw
from flashnas.families.load_pretrained import (
    Pretrained,
    SpecialTokens,
    load_pretrained,
    tokenizer_of,
)
from flashnas.network.model import HybridLM
from flashnas.network.precision import fast_dtype
from flashnas.training.teacher_text import TextScore

REPLACEMENTS, TEXT = "replacements", "replacements_text"  # folders
SCORED, FRESH = 0, 1  # draws
DRAWS = 2
SET_PASSES = 0.6  # of a set of changes, which removes layers and begins behind the first ones
Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Conversion:
    """One conversion, with everything loaded and checked. text: behind the draws. choices: with
    what they save. saves_ms: of each budget. student: of each draw, made when one is needed."""

    config: ConvertConfig
    teacher: HybridLM
    special: SpecialTokens
    text: ContextReader
    times: RequestTimes
    choices: Sequence[Choice]
    saves_ms: Sequence[float]
    measurements: MeasurementLog
    student: Callable[[int], Student]
    show_progress: ShowProgress

    def milliseconds(self, layout: Layout) -> float:
        return self.times.milliseconds(layout)

    def measure(self, draw: int, layout: Layout) -> TextScore:
        return self.measurements.get(draw, layout, lambda: self.student(draw))

    def measure_all(self, draw: int, layouts: Sequence[Layout]) -> list[TextScore]:
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

    def measured(self, draw: int) -> list[tuple[Layout, TextScore]]:
        """All that the folder has of a draw, of changes that are offered."""
        choices = {choice.key: choice for choice in self.choices}
        found = []
        for (of_draw, text), score in self.measurements.known.items():
            keys = text.split(", ")
            if of_draw == draw and all(key in choices for key in keys):
                found.append((tuple(choices[key] for key in keys), score))
        return found

    def train_replacements(self, note: Note) -> TrainedReplacements | None:
        """Train what is to be trained, on text that is not scored."""
        config, tokens = self.config, self.config.replacement_tokens
        if not trained(self.choices):
            return None
        with disk_errors(f"{config.out}: cannot be written", RunError):
            dataset = self.text.training_text(config.out / TEXT, tokens)
            dtype = self.measurements.dtype
            recipe = replacement_recipe(dataset, config.context, tokens, dtype, config.device)
            folder = config.out / REPLACEMENTS
            return train_replacements(folder, self.teacher, self.choices, dataset, recipe, note)

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
    tokenizer, special = tokenizer_of(model, config.model, config.tokenizer)
    all_choices = possible(
        architecture,
        config.windows or (),
        config.widths,
        config.keep,
        config.replacements,
    )
    text = ContextReader(config.data, tokenizer, config.context, config.seed)
    draws = text.draws(config.documents, config.prompts, DRAWS)
    measurements = _measurement_log(config, _question(config, model, draws))
    times = load_times(config, architecture, all_choices)
    choices = offered(times.choices, times.milliseconds)
    for line in (*times.lines(choices), f"matrix products in {measurements.dtype}"):
        note(line)
    saves_ms = savings(config, times, choices)
    network = model.network.to(config.device)

    @functools.lru_cache(maxsize=2)
    def student(draw: int) -> Student:
        # narrower networks keep the same columns on fresh text, and in the weights that are written
        columns = None if draw == SCORED else student(SCORED).columns
        replacements = read_replacements(config.out / REPLACEMENTS, choices)
        return Student(network, draws[draw], measurements.dtype, columns, replacements)

    return Conversion(
        config,
        network,
        special,
        text,
        times,
        choices,
        saves_ms,
        measurements,
        student,
        show_progress,
    )


def _measurement_log(config: ConvertConfig, question: dict[str, Any]) -> MeasurementLog:
    """Where nothing was measured or trained yet, the question may be another one."""
    path = config.out / "measurements.jsonl"
    if (
        path.is_file()
        and not (config.out / REPLACEMENTS).exists()
        and path.read_bytes().count(b"\n") < 2
    ):
        path.unlink()
    return MeasurementLog(path, question, fast_dtype(config.device))


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
