"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from flashnas.base.errors import BudgetError, ConfigError, DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.base.text import duration
from flashnas.convert.answer import Answer, Finalist, Times, write_conversion
from flashnas.convert.choices import Choice, Layout, budget_of, key_of, offered, possible
from flashnas.convert.config import ConvertConfig
from flashnas.convert.measure import Measured, Measurements, Student
from flashnas.convert.select import (
    Law,
    LayerVerdict,
    Scores,
    cheapest,
    fit_law,
    placed,
    random_layouts,
    verdicts,
)
from flashnas.convert.texts import Draw, draws
from flashnas.convert.times import load_times
from flashnas.convert.weights import Pretrained, load_pretrained
from flashnas.data.tokenizer import load_tokenizer, vocab_size

SCORED, FRESH = 0, 1  # draws
FOLLOWING = 0.3  # sets of changes save at least this share of what the tightest budget asks for
Note = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Conversion:
    """One conversion, with everything loaded and checked. choices: with what they save. saves_ms:
    of each budget. students: of each draw, made when one is needed."""

    config: ConvertConfig
    teacher: Pretrained
    times: Times
    choices: Sequence[Choice]
    saves_ms: Sequence[float]
    draws: Sequence[Draw]
    measurements: Measurements
    student: Callable[[int], Student]

    def measure(self, draw: int, layout: Layout) -> Measured:
        return self.measurements.get(draw, layout, lambda: self.student(draw))

    @property
    def most_lost(self) -> float:
        """Of the recall; infinite where it does not count."""
        return 1 - self.config.recall if self.config.recall else float("inf")


def convert_model(
    config: ConvertConfig, *, note: Note, progress: Progress, command: str
) -> dict[str, Any]:
    """Convert a pretrained model; returns the figures of the answer.

    Raises:
        FlashnasError: in one line, for whatever cannot work.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch finds no CUDA device")
    with disk_errors(f"{config.out}: cannot be written", RunError):
        config.out.mkdir(parents=True, exist_ok=True)
    busy = RunError(f"{config.out}: another process is writing this conversion")
    with hold_lock(config.out / ".lock", busy):
        conversion = load_conversion(config, note)
        singles = score_singles(conversion, note, progress)
        law = learn_law(conversion, singles, progress)
        finalists = measure_finalists(conversion, singles, law, progress)
        answer = answer_of(conversion, singles, law, finalists, progress)
        write_conversion(config.out, answer, conversion.student(SCORED).network, command)
    return answer.to_dict()


def load_conversion(config: ConvertConfig, note: Note) -> Conversion:
    """Read the model, the times and the text, and say what each change saves."""
    model = load_pretrained(config.model)
    architecture = model.network.architecture
    tokenizer = _tokenizer(config, model)
    windows = () if config.runtime else config.windows or ()
    all_choices = possible(architecture, windows, config.widths, config.keep)
    times = load_times(config, architecture, all_choices, note)
    choices = offered(architecture, times.choices, times.milliseconds)
    full_ms = times.milliseconds(())
    for line in times.lines(choices):
        note(line)
    fastest = full_ms - sum(
        max(choice.saved_ms for choice in choices if choice.layer == layer)
        for layer in {choice.layer for choice in choices}
    )
    saves_ms = []
    for words in config.budget_ms:
        budget = budget_of(words, full_ms)
        if budget >= full_ms:
            raise BudgetError(
                f"convert.budget_ms: the model itself takes {full_ms:,.0f} ms, which is within"
                f" {budget:,.0f} ms"
            )
        if budget < fastest:
            raise BudgetError(
                f"convert.budget_ms: no layout takes at most {budget:,.0f} ms; the fastest takes"
                f" {fastest:,.0f} ms"
            )
        saves_ms.append(full_ms - budget)
    text = draws(
        config.data,
        tokenizer,
        context=config.context,
        documents=config.documents,
        prompts=config.prompts,
        count=2,
        seed=config.seed,
    )
    network = model.network.to(config.device)
    student = functools.lru_cache(maxsize=1)(lambda draw: Student(network, text[draw]))
    measurements = Measurements(config.out / "measurements.jsonl", _question(config, model, text))
    return Conversion(config, model, times, choices, saves_ms, text, measurements, student)


def _tokenizer(config: ConvertConfig, model: Pretrained) -> Tokenizer:
    tokenizer = model.tokenizer
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer)
    if tokenizer is None:
        raise ConfigError(f"{config.model}: has no tokenizer; name one with --tokenizer")
    vocab = model.network.architecture.vocab
    if vocab_size(tokenizer) > vocab:
        raise ConfigError(
            f"convert.tokenizer: its ids go up to {vocab_size(tokenizer) - 1}; the model's"
            f" vocabulary ends at {vocab - 1}"
        )
    return tokenizer


def _question(config: ConvertConfig, model: Pretrained, text: Sequence[Draw]) -> dict[str, Any]:
    """What measurements depend on."""
    weights, tokens = hashlib.sha256(), hashlib.sha256()
    for tensor in model.network.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    tokens.update(text[SCORED].documents.tobytes() + text[SCORED].prompts.tobytes())
    return {
        "model": Path(config.model).name,
        "weights": weights.hexdigest()[:16],
        "context": config.context,
        "documents": config.documents,
        "prompts": config.prompts,
        "seed": config.seed,
        "tokens": tokens.hexdigest()[:16],
    }


def score_singles(conversion: Conversion, note: Note, progress: Progress) -> Scores:
    """Each change alone, on the first draw."""
    config, choices = conversion.config, conversion.choices
    known = conversion.measurements.known
    missing = [choice for choice in choices if (SCORED, choice.key) not in known]
    started = time.monotonic()
    student = conversion.student(SCORED)
    asked, done = len(student.draw.probes), len(student.probes)
    note(
        f"the model's own loss on {config.data}: {np.mean(student.loss):.3f} nats/token; it does"
        f" {done} of {asked} recall probes; the others are left out"
    )
    if not done and config.recall:
        raise ConfigError(
            f"{config.model}: does none of the {asked} recall probes, so that no share of its"
            " recall can be kept; --recall 0 chooses without them"
        )
    pass_s = (time.monotonic() - started) * 0.9
    further = config.sets + (1 + config.comparisons) * len(config.budget_ms) + config.finalists
    layers = len(conversion.teacher.network.layers)
    shares = sum((layers - choice.layer) / layers for choice in missing)
    note(
        f"plan: {len(missing)} of {len(choices)} single changes and up to {further} sets of them on"
        f" {len(student.rows)} contexts of {config.context:,} tokens; about"
        f" {duration(pass_s * (shares + further))}"
    )
    for number, choice in enumerate(choices):
        conversion.measure(SCORED, (choice,))
        progress(number + 1, len(choices) + further)
    measured = [conversion.measure(SCORED, (choice,)) for choice in choices]
    return Scores.of(choices, measured)


def learn_law(conversion: Conversion, singles: Scores, progress: Progress) -> Law:
    """How changes add up, from sets of them on the first draw."""
    most = max(conversion.saves_ms)
    layouts = random_layouts(
        singles, (FOLLOWING * most, most), conversion.config.sets, conversion.config.seed
    )
    measured = []
    for number, layout in enumerate(layouts):
        measured.append(conversion.measure(SCORED, layout))
        progress(len(singles.choices) + number + 1, len(singles.choices) + len(layouts))
    return fit_law(singles, layouts, measured)


def measure_finalists(
    conversion: Conversion, singles: Scores, law: Law, progress: Progress
) -> list[Finalist]:
    """The choice for each budget, and for savings between nothing and the tightest one, on fresh
    text; the rule is fixed before anything of it is measured."""
    count = conversion.config.finalists - len(conversion.saves_ms)
    most = max(conversion.saves_ms)
    saves = [most * (n + 1) / (count + 1) for n in range(max(count, 0))]
    layouts: dict[str, tuple[Layout, float | None]] = {}
    asked: list[tuple[float, float | None]] = [
        (save_ms, save_ms) for save_ms in conversion.saves_ms
    ]
    asked += [(save_ms, None) for save_ms in saves]
    for save_ms, budget in asked:
        layout = choose(conversion, singles, law, save_ms)
        layouts.setdefault(key_of(layout), (layout, budget))
    found = []
    for number, (layout, budget) in enumerate(layouts.values()):
        found.append(_finalist(conversion, singles, law, layout, budget))
        progress(number + 1, len(layouts))
    return sorted(found, key=lambda finalist: finalist.ms)


def choose(conversion: Conversion, singles: Scores, law: Law, save_ms: float) -> Layout:
    """The layout of the lowest expected KL that saves so much. Savings add up nearly: where the
    times of the whole network say that too little is saved, more is asked for."""
    kl, lost = singles.means
    full_ms, asked = conversion.times.milliseconds(()), save_ms
    while True:
        layout = cheapest(conversion.choices, kl, law.slope * lost, asked, conversion.most_lost)
        if layout is None:
            raise BudgetError(
                f"convert.recall: no layout that saves {save_ms:,.0f} ms is expected to keep"
                f" {conversion.config.recall:.0%} of the recall; lower --recall, or ask for more"
                " milliseconds"
            )
        missing = conversion.times.milliseconds(layout) - (full_ms - save_ms)
        if missing <= 1e-6 * full_ms:
            return layout
        asked += missing


def _finalist(
    conversion: Conversion, singles: Scores, law: Law, layout: Layout, save_ms: float | None
) -> Finalist:
    return Finalist(
        layout=layout,
        ms=conversion.times.milliseconds(layout),
        save_ms=save_ms,
        predicted=law.predict(singles, layout),
        measured=conversion.measure(FRESH, layout),
    )


def answer_of(
    conversion: Conversion,
    singles: Scores,
    law: Law,
    finalists: list[Finalist],
    progress: Progress,
) -> Answer:
    """What each layer becomes at each budget, how sure that is, and what other placements lose."""
    config = conversion.config
    sure: dict[str, list[LayerVerdict]] = {}
    compared: dict[str, list[Measured]] = {}
    for finalist in finalists:
        if finalist.save_ms is None:
            continue
        sure[finalist.key] = verdicts(
            singles, finalist.layout, finalist.save_ms, conversion.most_lost, law.slope
        )
        generator = np.random.default_rng(config.seed)
        others = [placed(conversion.choices, finalist.layout, None)]
        others += [
            placed(conversion.choices, finalist.layout, generator)
            for _ in range(config.comparisons)
        ]
        compared[finalist.key] = []
        for number, layout in enumerate(others):
            compared[finalist.key].append(conversion.measure(FRESH, layout))
            progress(number + 1, len(others))
    student = conversion.student(SCORED)
    return Answer(
        config=config,
        teacher=conversion.teacher.network.architecture,
        tokenizer=conversion.teacher.tokenizer,
        times=conversion.times,
        loss=float(np.mean(student.loss)),
        probes=(len(student.probes), len(student.draw.probes)),
        singles=singles,
        law=law,
        finalists=finalists,
        verdicts=sure,
        compared=compared,
    )
