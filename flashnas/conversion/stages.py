"""The stages of a conversion: each change alone, sets of changes, the choice, finalists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashnas.base.errors import BudgetError, ConfigError
from flashnas.base.text import duration
from flashnas.conversion.choices import Layout, converted, key_of
from flashnas.conversion.found import Finalist
from flashnas.conversion.law import SampledSet, SetLaw, SingleScores, fit_law
from flashnas.conversion.load import FRESH, SCORED, SET_PASSES, Conversion, Note
from flashnas.conversion.select import lowest_kl, sample_sets
from flashnas.training.teacher_text import TextScore

LEAST_SHARE = 0.3  # sets of changes save at least this share of what the tightest budget asks for


def score_singles(conversion: Conversion, note: Note) -> SingleScores:
    """Each change alone, on the first draw."""
    config = conversion.config
    choices = conversion.choices
    progress = conversion.progress
    text = conversion.student(SCORED).text
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
    further = conversion.planned - len(choices)
    passes = sum(conversion.passes((choice,)) for choice in missing)
    note(
        f"plan: {len(missing)} of {len(choices)} single changes and up to {further} sets of them on"
        f" {config.documents + config.prompts} contexts of {config.context:,} tokens; about"
        f" {duration(progress.pass_s * (passes + SET_PASSES * further))}"
    )
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
    most = max(conversion.saves_ms)
    chosen = dict.fromkeys(answers)
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
    """Predicted and measured on fresh text."""
    layouts = choose_finalists(conversion, law, answers)
    model = next(iter(conversion.times.models.values()))
    measured = conversion.measure_all(FRESH, layouts)
    found = []
    for layout, score in zip(layouts, measured, strict=True):
        predicted = law.predict(layout)
        latency_ms = conversion.milliseconds(layout)
        network = converted(conversion.teacher.architecture, layout)
        figures = score.figures()
        found.append(
            Finalist(
                layout=key_of(layout),
                notation=network.notation,
                latency_ms=latency_ms,
                share=latency_ms / conversion.milliseconds(()),
                answers_a_budget=layout in answers,
                predicted=predicted,
                **figures,
                inside=predicted.kl_low <= figures["kl"] <= predicted.kl_high,
                refused=conversion.config.refusal(figures["kl"], figures["recall"]),
                memory_gb=model.memory_gb(network),
            )
        )
    return found
