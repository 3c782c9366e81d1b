"""The scores of a conversion: each change alone, and sets of changes, from which a law is learnt."""

from __future__ import annotations

import numpy as np

from flashnas.base.errors import ConfigError
from flashnas.base.text import duration
from flashnas.conversion.law import SampledSet, SetLaw, SingleScores, fit_law
from flashnas.conversion.load import SCORED, SET_PASSES, Conversion, Note
from flashnas.conversion.measure import LayoutScore
from flashnas.conversion.select import sample_sets

LEAST_SHARE = 0.3  # sets of changes save at least this share of what the tightest budget asks for


def score_singles(conversion: Conversion, note: Note) -> SingleScores:
    """Each change alone, on the first draw."""
    config = conversion.config
    choices = conversion.choices
    progress = conversion.progress
    student = conversion.student(SCORED)
    asked = len(student.draw.probes)
    done = len(student.probes)
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
    config = conversion.config
    most = max(conversion.saves_ms)
    saves_ms = (LEAST_SHARE * most, most)
    seed = 2 * config.seed + turn
    return sample_sets(law, saves_ms, config.recall, count, seed)
