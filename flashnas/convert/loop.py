"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from scipy.stats import spearmanr

from flashnas.base.errors import BudgetError, ConfigError, DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.base.text import duration
from flashnas.convert.choices import Layout, converted, key_of, kind_of
from flashnas.convert.config import ConvertConfig
from flashnas.convert.folder import weights_of, write_folder, write_weights
from flashnas.convert.found import (
    BudgetAnswer,
    ConversionFound,
    Finalist,
    OtherLayout,
    SingleChange,
)
from flashnas.convert.load import (
    FRESH,
    SCORED,
    SET_PASSES,
    Conversion,
    Note,
    load_conversion,
)
from flashnas.convert.measure import LayoutScore, half_width
from flashnas.convert.select import (
    SampledSet,
    SetLaw,
    SingleScores,
    elsewhere,
    fit_law,
    lowest_kl,
    resampled_layers,
    sample_sets,
)

LEAST_SHARE = 0.3  # sets of changes save at least this share of what the tightest budget asks for


def convert_model(
    config: ConvertConfig, *, note: Note, progress: Callable[[int, int, float], None], command: str
) -> ConversionFound:
    """Convert a pretrained model.

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
        conversion = load_conversion(config, note, progress)
        trained = conversion.train_replacements(note)
        singles = score_singles(conversion, note)
        write_folder(conversion, SCORED, command)
        restored = restore_one(conversion) if config.restore_one else {}
        law = learn_law(conversion, singles)
        write_folder(conversion, SCORED, command)
        chosen = [within(conversion, law, save_ms) for save_ms in conversion.saves_ms]
        layouts = [layout for layout, _ in chosen]
        finalists = measure_finalists(conversion, law, layouts)
        write_folder(conversion, FRESH, command)
        found = replace(
            describe(conversion, law, restored, finalists, chosen), replacements=trained
        )
        write_weights(conversion, layouts)
        write_folder(conversion, FRESH, command, asdict(found))
    return found


# -- scores ----------------------------------------------------------------------------------------


def score_singles(conversion: Conversion, note: Note) -> SingleScores:
    """Each change alone, on the first draw."""
    config, choices, progress = conversion.config, conversion.choices, conversion.progress
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
    known = conversion.measurements.known
    missing = [choice for choice in choices if (SCORED, choice.key) not in known]
    further = conversion.planned - len(choices)
    passes = sum(conversion.passes((choice,)) for choice in missing)
    note(
        f"plan: {len(missing)} of {len(choices)} single changes and up to {further} sets of them on"
        f" {len(student.rows)} contexts of {config.context:,} tokens; about"
        f" {duration(progress.pass_s * (passes + SET_PASSES * further))}"
    )
    measured = conversion.measure_all(SCORED, [(choice,) for choice in choices])
    return SingleScores.of(choices, measured)


def restore_one(conversion: Conversion) -> dict[int, float]:
    """Layer -> by how much the KL falls where all removable mixers but this one go. For comparison
    alone."""
    removed = conversion.removable_mixers
    layouts = [tuple(other for other in removed if other is not choice) for choice in removed]
    measured = conversion.measure_all(SCORED, [removed, *layouts])
    all_removed, *restored = (float(np.mean(score.kl)) for score in measured)
    return {choice.layer: all_removed - kl for choice, kl in zip(removed, restored, strict=True)}


def learn_law(conversion: Conversion, singles: SingleScores) -> SetLaw:
    """How changes add up, from sets of them on the first draw; the second half of the sets is
    chosen by the law of the first."""
    config = conversion.config
    sets, measured = list[SampledSet](), list[LayoutScore]()
    law = fit_law(singles, [], [])
    for half, count in enumerate((config.sets - config.sets // 2, config.sets // 2)):
        sampled = sets_of(conversion, law, count, half)
        sets += sampled
        measured += conversion.measure_all(SCORED, [entry.layout for entry in sampled])
        law = fit_law(singles, sets, measured)
    return law


def sets_of(conversion: Conversion, law: SetLaw, count: int, turn: int) -> list[SampledSet]:
    """`sample_sets` as the options have it; another turn draws other sets."""
    config, most = conversion.config, max(conversion.saves_ms)
    saves_ms, seed = (LEAST_SHARE * most, most), 2 * config.seed + turn
    return sample_sets(law, saves_ms, config.recall, count, seed)


# -- the choice ------------------------------------------------------------------------------------


def within(conversion: Conversion, law: SetLaw, save_ms: float) -> tuple[Layout, float]:
    """`lowest_kl` where the times of the whole network say that so much is saved: savings add up
    nearly, and where too little is saved, more is asked for."""
    full_ms, asked = conversion.milliseconds(()), save_ms
    while True:
        layout, floor = lowest_kl(law, asked, conversion.config.recall)
        if layout is None:
            raise BudgetError(
                f"convert.budget_ms: no layout takes at most {full_ms - save_ms:,.0f} ms"
            )
        missing = conversion.milliseconds(layout) - full_ms + save_ms
        if missing <= 1e-9 * full_ms:
            return layout, floor
        asked += max(missing, 1e-6 * full_ms)


def choose_finalists(
    conversion: Conversion, law: SetLaw, answers: Sequence[Layout]
) -> list[Layout]:
    """The answers, and to check the predictions choices for savings between nothing and the
    tightest budget; where these are too few, also sets such as those of the law."""
    most, chosen = max(conversion.saves_ms), dict.fromkeys(answers)
    count = max(conversion.config.finalists, len(chosen))
    between = count - len(chosen)
    for n in range(between):
        chosen.setdefault(within(conversion, law, most * (n + 1) / (between + 1))[0])
    for entry in sets_of(conversion, law, count, turn=2):
        chosen.setdefault(entry.layout)
    return sorted([*chosen][:count], key=conversion.milliseconds)


def measure_finalists(
    conversion: Conversion, law: SetLaw, answers: Sequence[Layout]
) -> list[Finalist]:
    """Predicted and measured on fresh text, and timed where a program runs the models."""
    layouts = choose_finalists(conversion, law, answers)
    measured = conversion.measure_all(FRESH, layouts)
    timed = conversion.times.timed(layouts)
    found = []
    for layout, score, (timed_ms, model_ms) in zip(layouts, measured, timed, strict=True):
        predicted, latency_ms = law.predict(layout), conversion.milliseconds(layout)
        found.append(
            Finalist(
                layout=key_of(layout),
                notation=converted(conversion.teacher.architecture, layout).notation,
                latency_ms=latency_ms,
                share=latency_ms / conversion.milliseconds(()),
                timed_ms=timed_ms,
                model_timed_ms=model_ms,
                answers_a_budget=layout in answers,
                predicted=predicted,
                **score.figures(),
                inside=bool(predicted.kl_low <= np.mean(score.kl) <= predicted.kl_high),
            )
        )
    return found


# -- what is said ----------------------------------------------------------------------------------


def describe(
    conversion: Conversion,
    law: SetLaw,
    restored: dict[int, float],
    finalists: list[Finalist],
    chosen: Sequence[tuple[Layout, float]],
) -> ConversionFound:
    """All figures. chosen: for each budget its layout, and the floor of recall that it keeps."""
    student, singles = conversion.student(SCORED), law.scores
    agreement = {"block error": singles.block_error, "recall": singles.lost}
    if restored:
        layers = [choice.layer for choice in singles.choices]
        agreement["restore-one"] = np.array([restored.get(layer, 0.0) for layer in layers])
    mixers = [singles.choices.index(choice) for choice in conversion.removable_mixers]
    return ConversionFound(
        run=str(conversion.config.out),
        model=conversion.config.model,
        notation=conversion.teacher.architecture.notation,
        times=conversion.times.source,
        model_ms=conversion.milliseconds(()),
        loss=float(np.mean(student.loss)),
        probes_done=len(student.probes),
        probes=len(student.draw.probes),
        agreement_of_halves=singles.agreement,
        agreement_with_kl={
            name: float(spearmanr(singles.mean_kl[mixers], values[mixers])[0])
            for name, values in agreement.items()
            if len(set(values[mixers])) > 1
        },
        law=law.summary(),
        singles=[
            SingleChange(
                layer=choice.layer,
                kind=kind_of(conversion.teacher.architecture, choice),
                saved_ms=choice.saved_ms,
                **conversion.measure(SCORED, (choice,)).figures(),
                block_error=float(block_error),
                restored=restored.get(choice.layer),
            )
            for choice, block_error in zip(singles.choices, singles.block_error, strict=True)
        ],
        finalists=finalists,
        answers=[
            BudgetAnswer(
                budget_ms=conversion.milliseconds(()) - save_ms,
                latency_ms=conversion.milliseconds(layout),
                layout=key_of(layout),
                recall_floor=floor,
                weights=str(weights_of(conversion, layout)),
                layers=resampled_layers(law, layout, save_ms, floor),
                others=compare(conversion, singles, restored, layout),
            )
            for save_ms, (layout, floor) in zip(conversion.saves_ms, chosen, strict=True)
        ],
    )


def compare(
    conversion: Conversion, singles: SingleScores, restored: dict[int, float], layout: Layout
) -> list[OtherLayout]:
    """What as many changes elsewhere lose on the same fresh documents."""
    config, choices = conversion.config, conversion.choices
    generator = np.random.default_rng(config.seed)
    kinds = [spec.kind for spec in conversion.teacher.architecture.operators]
    error = {
        choice.layer: value for choice, value in zip(choices, singles.block_error, strict=True)
    }
    orders: list[tuple[str, dict[int, float] | None]] = [
        ("evenly spaced", None),
        ("by block error", error),
    ]
    if restored:
        orders.append(("by restore-one", error | restored))
    drawn = generator.random((config.comparisons, len(kinds)))
    orders += [("at random", dict(enumerate(values))) for values in drawn]
    layouts = [elsewhere(kinds, choices, layout, order) for _, order in orders]
    own = np.array(conversion.measure(FRESH, layout).kl)
    found = []
    for (name, _), score in zip(orders, conversion.measure_all(FRESH, layouts), strict=True):
        more = np.array(score.kl) - own
        found.append(
            OtherLayout(
                placement=name,
                **score.figures(),
                more=float(more.mean()),
                more_half=half_width(more),
            )
        )
    return found
