"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from flashnas.base.errors import BudgetError, ConfigError, DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.base.text import duration
from flashnas.convert.answer import ConversionResult, Finalist
from flashnas.convert.choices import Layout, key_of
from flashnas.convert.config import ConvertConfig
from flashnas.convert.folder import write_conversion
from flashnas.convert.load import FRESH, SCORED, Conversion, Note, load_conversion
from flashnas.convert.measure import LayoutScore
from flashnas.convert.select import (
    SetLaw,
    SingleScores,
    cheapest,
    fit_law,
    most_lost,
    placed,
    random_layouts,
    verdicts,
)

FOLLOWING = 0.3  # sets of changes save at least this share of what the tightest budget asks for
Progress = Callable[[int, int], None]


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


def score_singles(conversion: Conversion, note: Note, progress: Progress) -> SingleScores:
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
    return SingleScores.of(choices, measured)


def learn_law(conversion: Conversion, singles: SingleScores, progress: Progress) -> SetLaw:
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
    conversion: Conversion, singles: SingleScores, law: SetLaw, progress: Progress
) -> list[Finalist]:
    """The choice for each budget, and for savings between nothing and the tightest one, on fresh
    text; where these are fewer than asked for, also sets such as those of the law. The rule is
    fixed before anything of it is measured."""
    count, most = conversion.config.finalists, max(conversion.saves_ms)
    layouts: dict[str, tuple[Layout, float | None, float]] = {}
    for save_ms in conversion.saves_ms:
        layout, floor = choose(conversion, singles, law, save_ms)
        layouts.setdefault(key_of(layout), (layout, save_ms, floor))
    between = count - len(layouts)
    others = [
        choose(conversion, singles, law, most * (n + 1) / (between + 1))[0] for n in range(between)
    ]
    others += random_layouts(singles, (FOLLOWING * most, most), count, conversion.config.seed + 1)
    for layout in others:
        if len(layouts) < count:
            layouts.setdefault(key_of(layout), (layout, None, 0.0))
    found = []
    for number, (layout, answers_ms, floor) in enumerate(layouts.values()):
        found.append(
            Finalist(
                layout=layout,
                ms=conversion.times.milliseconds(layout),
                save_ms=answers_ms,
                recall_floor=floor,
                predicted=law.predict(singles, layout),
                measured=conversion.measure(FRESH, layout),
            )
        )
        progress(number + 1, len(layouts))
    return sorted(found, key=lambda finalist: finalist.ms)


def choose(
    conversion: Conversion, singles: SingleScores, law: SetLaw, save_ms: float
) -> tuple[Layout, float]:
    """The layout of the lowest expected KL that saves so much, and the share of the recall that it
    was to keep: what the user asks for, or where no layout keeps that, the next tenth that one
    keeps. Savings add up nearly: where the times of the whole network say that too little is saved,
    more is asked for."""
    kl, lost = singles.means
    full_ms, asked, floor = conversion.times.milliseconds(()), save_ms, conversion.config.recall
    while True:
        layout = cheapest(conversion.choices, kl, law.slope * lost, asked, most_lost(floor))
        if layout is None and not floor:
            raise BudgetError(
                f"convert.budget_ms: no layout takes at most {full_ms - save_ms:,.0f} ms"
            )
        if layout is None:
            floor = max(round(floor - 0.1, 9), 0.0)
        elif (
            missing := conversion.times.milliseconds(layout) - full_ms + save_ms
        ) > 1e-9 * full_ms:
            asked += missing
        else:
            return layout, floor


def answer_of(
    conversion: Conversion,
    singles: SingleScores,
    law: SetLaw,
    finalists: list[Finalist],
    progress: Progress,
) -> ConversionResult:
    """What each layer becomes at each budget, how sure that is, and what other placements lose."""
    config = conversion.config
    sure: dict[str, list[dict[str, Any]]] = {}
    compared: dict[str, list[LayoutScore]] = {}
    for finalist in finalists:
        if finalist.save_ms is None:
            continue
        sure[finalist.key] = verdicts(
            singles,
            finalist.layout,
            finalist.save_ms,
            most_lost(finalist.recall_floor),
            law.slope,
        )
        kinds = [spec.kind for spec in conversion.teacher.network.architecture.operators]
        generator = np.random.default_rng(config.seed)
        others = [placed(kinds, conversion.choices, finalist.layout, None)]
        others += [
            placed(kinds, conversion.choices, finalist.layout, generator)
            for _ in range(config.comparisons)
        ]
        compared[finalist.key] = []
        for number, layout in enumerate(others):
            compared[finalist.key].append(conversion.measure(FRESH, layout))
            progress(number + 1, len(others))
    student = conversion.student(SCORED)
    return ConversionResult(
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
