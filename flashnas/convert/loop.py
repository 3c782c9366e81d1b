"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from flashnas.base.errors import BudgetError, ConfigError, DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.base.text import INTERVAL_90, duration
from flashnas.convert.choices import Layout, converted, key_of, kind_of
from flashnas.convert.config import ConvertConfig
from flashnas.convert.folder import weights_of, write_folder, write_weights
from flashnas.convert.load import FRESH, SCORED, Conversion, Note, load_conversion
from flashnas.convert.measure import LayoutScore
from flashnas.convert.select import (
    Placement,
    SampledSet,
    SetLaw,
    SingleScores,
    at_random,
    evenly,
    fit_law,
    least_first,
    lowest_kl,
    placed,
    resampled_shares,
    sample_sets,
)

LEAST_SHARE = 0.3  # sets of changes save at least this share of what the tightest budget asks for
Progress = Callable[[float, bool], None]  # passes of one more measurement; was it known


def convert_model(
    config: ConvertConfig, *, note: Note, progress: Callable[[int, int, float], None], command: str
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
        started, done = time.monotonic(), itertools.count(1)
        # the model itself is computed on both draws; on the first one before anything is measured
        worked, left = 1.0, 1.0 + conversion.planned - len(conversion.choices)
        left += sum(conversion.passes((choice,)) for choice in conversion.choices)

        def advance(passes: float, known: bool) -> None:
            nonlocal worked, left
            worked, left = worked + passes * (not known), left - passes
            pass_s = (time.monotonic() - started) / worked
            progress(next(done), conversion.planned, pass_s * max(left, 0.0))

        singles = score_singles(conversion, note, advance)
        write_folder(conversion, SCORED, command)
        restored = restore_one(conversion, singles, advance) if config.restore_one else None
        law = learn_law(conversion, singles, advance)
        write_folder(conversion, SCORED, command)
        chosen = choose_finalists(conversion, singles, law)
        finalists = measure_finalists(conversion, singles, law, chosen, advance)
        write_folder(conversion, FRESH, command)
        values = {
            **facts(conversion, singles, law, restored),
            "finalists": finalists,
            "answers": [
                answer(conversion, singles, law, restored, entry.layout, budget, advance)
                for entry in chosen
                for budget in entry.budgets
            ],
        }
        write_weights(conversion, [entry.layout for entry in chosen if entry.budgets])
        write_folder(conversion, FRESH, command, values)
    return values


# -- scores ----------------------------------------------------------------------------------------


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
    further = conversion.planned - len(choices)
    passes = sum(conversion.passes((choice,)) for choice in missing)
    note(
        f"plan: {len(missing)} of {len(choices)} single changes and up to {further} sets of them on"
        f" {len(student.rows)} contexts of {config.context:,} tokens; about"
        f" {duration(pass_s * (passes + further))}"
    )
    measured = conversion.measure_all(SCORED, [(choice,) for choice in choices], progress)
    return SingleScores.of(choices, measured)


def restore_one(
    conversion: Conversion, singles: SingleScores, progress: Progress
) -> dict[int, float]:
    """Layer -> by how much the KL falls where all removable mixers but this one go. For comparison
    alone."""
    removed = conversion.removable_mixers
    layouts = [tuple(other for other in removed if other is not choice) for choice in removed]
    measured = conversion.measure_all(SCORED, [removed, *layouts], progress)
    all_removed, *restored = (float(np.mean(score.kl)) for score in measured)
    return {choice.layer: all_removed - kl for choice, kl in zip(removed, restored, strict=True)}


def learn_law(conversion: Conversion, singles: SingleScores, progress: Progress) -> SetLaw:
    """How changes add up, from sets of them on the first draw; the second half of the sets is
    chosen by the law of the first."""
    config, most = conversion.config, max(conversion.saves_ms)
    sets, measured = list[SampledSet](), list[LayoutScore]()
    law = fit_law(singles, [], [])
    for half, count in enumerate((config.sets - config.sets // 2, config.sets // 2)):
        spread, seed = (LEAST_SHARE * most, most), 2 * config.seed + half
        sampled = sample_sets(singles, law, spread, config.recall, count, seed)
        sets += sampled
        measured += conversion.measure_all(SCORED, [entry.layout for entry in sampled], progress)
        law = fit_law(singles, sets, measured)
    return law


# -- the choice ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavingsGoal:
    """Milliseconds to save, and the share of the recall that a layout was to keep."""

    save_ms: float
    floor: float


@dataclass(frozen=True)
class Finalist:
    """A layout to be measured on fresh text. budgets: that it answers; without one it is there to
    check the predictions."""

    layout: Layout
    budgets: tuple[SavingsGoal, ...] = ()


def choose_finalists(conversion: Conversion, singles: SingleScores, law: SetLaw) -> list[Finalist]:
    """The choice for each budget, and for savings between nothing and the tightest one; where these
    are fewer than asked for, also sets such as those of the law."""
    config, most = conversion.config, max(conversion.saves_ms)
    found: dict[str, Finalist] = {}
    for save_ms in conversion.saves_ms:
        layout, floor = within(conversion, singles, law, save_ms)
        before = found.get(key_of(layout), Finalist(layout)).budgets
        found[key_of(layout)] = Finalist(layout, (*before, SavingsGoal(save_ms, floor)))
    between = config.finalists - len(found)
    others = [
        within(conversion, singles, law, most * (n + 1) / (between + 1))[0] for n in range(between)
    ]
    spread = (LEAST_SHARE * most, most)
    seed = 2 * config.seed + 2
    others += [
        entry.layout
        for entry in sample_sets(singles, law, spread, config.recall, config.finalists, seed)
    ]
    for layout in others:
        if len(found) < config.finalists:
            found.setdefault(key_of(layout), Finalist(layout))
    return sorted(found.values(), key=lambda entry: conversion.milliseconds(entry.layout))


def within(
    conversion: Conversion, singles: SingleScores, law: SetLaw, save_ms: float
) -> tuple[Layout, float]:
    """`lowest_kl` where the times of the whole network say that so much is saved: savings add up
    nearly, and where too little is saved, more is asked for."""
    full_ms, asked = conversion.milliseconds(()), save_ms
    while True:
        layout, floor = lowest_kl(singles, law, asked, conversion.config.recall)
        if layout is None:
            raise BudgetError(
                f"convert.budget_ms: no layout takes at most {full_ms - save_ms:,.0f} ms"
            )
        missing = conversion.milliseconds(layout) - full_ms + save_ms
        if missing <= 1e-9 * full_ms:
            return layout, floor
        asked += max(missing, 1e-6 * full_ms)


def measure_finalists(
    conversion: Conversion,
    singles: SingleScores,
    law: SetLaw,
    finalists: list[Finalist],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Predicted and measured on fresh text, and timed where a program runs the models."""
    predicted = [law.predict(singles, entry.layout) for entry in finalists]
    measured = conversion.measure_all(FRESH, [entry.layout for entry in finalists], progress)
    timed = conversion.times.timed([entry.layout for entry in finalists])
    found = []
    for entry, prediction, score, (timed_ms, model_ms) in zip(
        finalists, predicted, measured, timed, strict=True
    ):
        found.append(
            {
                "layout": key_of(entry.layout),
                "notation": converted(conversion.teacher.architecture, entry.layout).notation,
                "latency_ms": conversion.milliseconds(entry.layout),
                "share": conversion.milliseconds(entry.layout) / conversion.milliseconds(()),
                "timed_ms": timed_ms,
                "model_timed_ms": model_ms,
                "answers_a_budget": bool(entry.budgets),
                "predicted": asdict(prediction),
                **fresh_figures(score),
                "inside": bool(prediction.kl_low <= np.mean(score.kl) <= prediction.kl_high),
            }
        )
    return found


def fresh_figures(score: LayoutScore) -> dict[str, float]:
    return {
        "kl": float(np.mean(score.kl)),
        "kl_half": half_width(score.kl),
        "loss": float(np.mean(score.loss)),
        "recall": float(np.mean(score.recalled)) if score.recalled else 1.0,
    }


def half_width(values: list[float] | np.ndarray) -> float:
    """Half of the 90 % interval of the mean over documents."""
    return float(INTERVAL_90 * np.std(values, ddof=1) / np.sqrt(len(values)))


# -- what is said ----------------------------------------------------------------------------------


def facts(
    conversion: Conversion, singles: SingleScores, law: SetLaw, restored: dict[int, float] | None
) -> dict[str, Any]:
    """All figures but those of finalists and answers."""
    student = conversion.student(SCORED)
    mixers = [singles.choices.index(choice) for choice in conversion.removable_mixers]
    kl = singles.mean_kl[mixers]
    agreement = {"block error": singles.block_error[mixers]}
    if np.ptp(singles.lost[mixers]):
        agreement["recall"] = singles.lost[mixers]
    if restored is not None:
        layers = [choice.layer for choice in conversion.removable_mixers]
        agreement["restore-one"] = np.array([restored[layer] for layer in layers])
    return {
        "run": str(conversion.config.out),
        "model": conversion.config.model,
        "notation": conversion.teacher.architecture.notation,
        "times": conversion.times.source,
        "model_ms": conversion.milliseconds(()),
        "loss": float(np.mean(student.loss)),
        "probes_done": len(student.probes),
        "probes": len(student.draw.probes),
        "agreement_of_halves": singles.agreement,
        "agreement_with_kl": {
            name: float(spearmanr(kl, values)[0]) for name, values in agreement.items()
        },
        "law": law.summary(),
        "singles": [
            {
                "layer": choice.layer,
                "kind": kind_of(conversion.teacher.architecture, choice),
                "saved_ms": choice.saved_ms,
                **fresh_figures(conversion.measure(SCORED, (choice,))),
                "block_error": float(singles.block_error[row]),
                "restored": (restored or {}).get(choice.layer),
            }
            for row, choice in enumerate(singles.choices)
        ],
    }


def answer(
    conversion: Conversion,
    singles: SingleScores,
    law: SetLaw,
    restored: dict[int, float] | None,
    layout: Layout,
    budget: SavingsGoal,
    progress: Progress,
) -> dict[str, Any]:
    """What each layer becomes within a budget, how sure that is, and what other placements of as
    many changes lose on the same fresh documents."""
    config = conversion.config
    generator = np.random.default_rng(config.seed)
    error = {
        choice.layer: value
        for choice, value in zip(singles.choices, singles.block_error, strict=True)
    }
    placements: list[tuple[str, Placement]] = [
        ("evenly spaced", evenly),
        ("by block error", least_first(error)),
    ]
    if restored is not None:
        placements.append(("by restore-one", least_first(error | restored)))
    placements += [("at random", at_random(generator))] * config.comparisons
    kinds = [spec.kind for spec in conversion.teacher.architecture.operators]
    layouts = [placed(kinds, conversion.choices, layout, pick) for _, pick in placements]
    own = np.array(conversion.measure(FRESH, layout).kl)
    others = []
    for (name, _), score in zip(
        placements, conversion.measure_all(FRESH, layouts, progress), strict=True
    ):
        more = np.array(score.kl) - own
        compared = {"more": float(more.mean()), "more_half": half_width(more)}
        others.append({"placement": name, **fresh_figures(score), **compared})
    return {
        "budget_ms": conversion.milliseconds(()) - budget.save_ms,
        "latency_ms": conversion.milliseconds(layout),
        "layout": key_of(layout),
        "recall_floor": budget.floor,
        "weights": str(weights_of(conversion, layout)),
        "layers": resampled_shares(singles, law, layout, budget.save_ms, budget.floor),
        "others": others,
    }
