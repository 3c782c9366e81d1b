"""Finalists: the answers, and layouts that check the predictions, measured on fresh text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashnas.base.errors import BudgetError
from flashnas.conversion.choices import Layout, converted, key_of
from flashnas.conversion.found import Finalist
from flashnas.conversion.law import SetLaw
from flashnas.conversion.load import FRESH, Conversion
from flashnas.conversion.scores import sets_of
from flashnas.conversion.select import lowest_kl


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
    """Predicted and measured on fresh text, and timed where a program runs the models."""
    layouts = choose_finalists(conversion, law, answers)
    measured = conversion.measure_all(FRESH, layouts)
    timed = conversion.times.timed(layouts)
    found = []
    for layout, score, (timed_ms, model_ms) in zip(layouts, measured, timed, strict=True):
        predicted = law.predict(layout)
        latency_ms = conversion.milliseconds(layout)
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
