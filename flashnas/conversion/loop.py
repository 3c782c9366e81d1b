"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from flashnas.architecture.source import position_limit
from flashnas.base.errors import BudgetError, ConfigError, DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.base.text import duration
from flashnas.conversion.choices import Layout, converted, key_of, kind_of
from flashnas.conversion.config import SIZES, ConvertConfig
from flashnas.conversion.folder import weights_of, write_folder, write_weights
from flashnas.conversion.found import (
    BudgetAnswer,
    ConversionFound,
    Finalist,
    SingleChange,
    TrainedReplacements,
)
from flashnas.conversion.law import SampledSet, SetLaw, SingleScores, fit_law
from flashnas.conversion.load import FRESH, SCORED, SET_PASSES, Conversion, Note
from flashnas.conversion.replacements import train_replacements
from flashnas.conversion.select import lowest_kl, resampled_layers, sample_sets
from flashnas.training.teacher_text import TextScore

LEAST_SHARE = 0.3  # sets of changes save at least this share of what the tightest budget asks for
LONG_S = 20 * 60  # from which a plan names --quick


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
    if (limit := position_limit(config.model)) is not None and config.context > limit:
        config.wrong(
            "context",
            f"must be at most max_position_embeddings of the model, {limit:,}; got"
            f" {config.context:,}",
        )
    hint = "; with room the same command continues"
    with disk_errors(f"{config.out}: cannot be written", RunError, hint):
        config.out.mkdir(parents=True, exist_ok=True)
        busy = RunError(f"{config.out}: another process is writing this conversion")
        with hold_lock(config.out / ".lock", busy):
            conversion = Conversion(config, note, progress)
            trained = train_replacements(
                config,
                conversion.teacher,
                conversion.choices,
                conversion.text,
                conversion.measurements.dtype,
                note,
            )
            law = learn_law(conversion, score_singles(conversion, note))
            chosen = [within(conversion, law, save_ms) for save_ms in conversion.saves_ms]
            found = answered(conversion, law, chosen, trained)
            write_folder(conversion, found, command)
    return found


def score_singles(conversion: Conversion, note: Note) -> SingleScores:
    """Each change alone, on the first draw."""
    config = conversion.config
    choices = conversion.choices
    text = conversion.student(SCORED)
    asked = len(text.draw.probes)
    done = len(text.probes)
    note(
        f"the model's own loss on {config.data}: {np.mean(text.loss):.3f} nats/token; it does"
        f" {done} of {asked} recall probes; the others are left out"
    )
    if not done and config.recall:
        raise ConfigError(
            f"{config.model}: does none of the {asked} recall probes, so that no share of its"
            " recall can be kept; --recall 0 chooses without them"
        )
    known = conversion.measurements.known
    missing = [choice for choice in choices if (SCORED, choice.key) not in known]
    passes = sum(conversion.passes((choice,)) for choice in missing)
    plan_s = conversion.pass_s * (passes + SET_PASSES * conversion.sets)
    note(
        f"plan: {len(missing)} of {len(choices)} single changes and up to {conversion.sets} sets of"
        f" them on {config.documents + config.prompts} contexts of {config.context:,} tokens; about"
        f" {duration(plan_s)}"
    )
    context, documents, prompts = (size[1] for size in [*SIZES.values()][:3])
    tokens = config.context * (config.documents + config.prompts)
    quick_s = plan_s * context * (documents + prompts) / tokens
    if plan_s > LONG_S and quick_s < plan_s / 2:
        note(f"  with --quick about {duration(quick_s)}, and wider intervals")
    measured = conversion.measure_all(SCORED, [(choice,) for choice in choices])
    return SingleScores.of(choices, measured)


def learn_law(conversion: Conversion, singles: SingleScores) -> SetLaw:
    """How changes add up, from sets of them on the first draw; the second half of the sets is
    chosen by the law of the first."""
    config = conversion.config
    sets, measured = list[SampledSet](), list[TextScore]()
    law = fit_law(singles, [], [])
    for half, count in enumerate((config.sets - config.sets // 2, config.sets // 2)):
        sampled = sets_of(conversion, law, count, half)
        sets += sampled
        measured += conversion.measure_all(SCORED, [entry.layout for entry in sampled])
        law = fit_law(singles, sets, measured)
    return law


def sets_of(conversion: Conversion, law: SetLaw, count: int, turn: int) -> list[SampledSet]:
    """`sample_sets` as the options have it; another turn draws other sets."""
    config = conversion.config
    most = max(conversion.saves_ms)
    saves_ms = (LEAST_SHARE * most, most)
    seed = 2 * config.seed + turn
    return sample_sets(law, saves_ms, config.recall, count, seed)


def within(conversion: Conversion, law: SetLaw, save_ms: float) -> tuple[Layout, float]:
    """`lowest_kl` where the times of the whole network say that so much is saved: savings add up
    nearly, and where too little is saved, more is asked for."""
    full_ms, asked = conversion.model_ms, save_ms
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


def measure_finalists(
    conversion: Conversion, law: SetLaw, answers: Sequence[Layout]
) -> list[Finalist]:
    """Predicted and measured on fresh text: the answers, and to check the predictions choices for
    savings between nothing and the tightest budget; where these are too few, also sets such as
    those of the law."""
    most = max(conversion.saves_ms)
    chosen = dict.fromkeys(answers)
    count = max(conversion.config.finalists, len(chosen))
    between = count - len(chosen)
    for n in range(between):
        chosen.setdefault(within(conversion, law, most * (n + 1) / (between + 1))[0])
    for entry in sets_of(conversion, law, count, turn=2):
        chosen.setdefault(entry.layout)
    layouts = sorted([*chosen][:count], key=conversion.milliseconds)
    found = []
    for layout, score in zip(layouts, conversion.measure_all(FRESH, layouts), strict=True):
        predicted, figures = law.predict(layout), score.figures()
        latency_ms = conversion.milliseconds(layout)
        network = converted(conversion.teacher.architecture, layout)
        found.append(
            Finalist(
                layout=key_of(layout),
                notation=network.notation,
                latency_ms=latency_ms,
                share=latency_ms / conversion.model_ms,
                answers_a_budget=layout in answers,
                predicted=predicted,
                **figures,
                inside=predicted.kl_low <= figures["kl"] <= predicted.kl_high,
                refused=conversion.config.refusal(figures["kl"], figures["recall"]),
                memory_gb=conversion.times.model.memory_gb(network),
            )
        )
    return found


def answered(
    conversion: Conversion,
    law: SetLaw,
    chosen: Sequence[tuple[Layout, float]],
    trained: TrainedReplacements | None,
) -> ConversionFound:
    """Measure the finalists and write the weights of what is accepted: all figures. chosen: for
    each budget its layout, and the floor of recall that it keeps."""
    finalists = measure_finalists(conversion, law, [layout for layout, _ in chosen])
    refused = {finalist.layout: finalist.refused for finalist in finalists}
    weights = weights_of(
        conversion, [layout for layout, _ in chosen if not refused[key_of(layout)]]
    )
    text = conversion.student(SCORED)
    model, teacher = conversion.times.model, conversion.teacher.architecture
    return ConversionFound(
        run=str(conversion.config.out),
        model=conversion.config.model,
        data=conversion.config.data,
        notation=teacher.notation,
        times=conversion.times.source,
        model_ms=conversion.model_ms,
        loss=float(np.mean(text.loss)),
        probes_done=len(text.probes),
        probes=len(text.draw.probes),
        law=law.summary(),
        singles=[
            SingleChange(
                layer=choice.layer,
                kind=kind_of(teacher, choice),
                saved_ms=choice.saved_ms,
                **conversion.measure(SCORED, (choice,)).figures(),
            )
            for choice in law.scores.choices
        ],
        finalists=finalists,
        answers=[
            BudgetAnswer(
                budget_ms=conversion.model_ms - save_ms,
                latency_ms=conversion.milliseconds(layout),
                layout=key_of(layout),
                recall_floor=floor,
                refused=refused[key_of(layout)],
                weights=str(weights[layout]) if layout in weights else None,
                layers=resampled_layers(law, layout, save_ms, floor),
            )
            for save_ms, (layout, floor) in zip(conversion.saves_ms, chosen, strict=True)
        ],
        replacements=trained,
        fresh_loss=float(np.mean(conversion.student(FRESH).loss)),
        memory_gb=model.memory_gb(teacher),
        context=conversion.config.context,
        request=model.workload.context,
        texts=write_weights(conversion, weights),
    )
