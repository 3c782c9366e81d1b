"""The figures of a conversion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashnas.conversion.choices import Layout, key_of, kind_of
from flashnas.conversion.folder import weights_of
from flashnas.conversion.found import (
    BudgetAnswer,
    ConversionFound,
    Finalist,
    SingleChange,
    TrainedReplacement,
)
from flashnas.conversion.law import SetLaw
from flashnas.conversion.load import SCORED, Conversion
from flashnas.conversion.select import resampled_layers


def describe(
    conversion: Conversion,
    law: SetLaw,
    finalists: list[Finalist],
    chosen: Sequence[tuple[Layout, float]],
    trained: list[TrainedReplacement],
) -> ConversionFound:
    """All figures. chosen: for each budget its layout, and the floor of recall that it keeps."""
    student, singles = conversion.student(SCORED), law.scores
    weights = weights_of(conversion, [layout for layout, _ in chosen])
    return ConversionFound(
        run=str(conversion.config.out),
        model=conversion.config.model,
        data=conversion.config.data,
        notation=conversion.teacher.architecture.notation,
        times=conversion.times.source,
        model_ms=conversion.milliseconds(()),
        loss=float(np.mean(student.loss)),
        probes_done=len(student.probes),
        probes=len(student.draw.probes),
        agreement_of_halves=singles.agreement,
        law=law.summary(),
        singles=[
            SingleChange(
                layer=choice.layer,
                kind=kind_of(conversion.teacher.architecture, choice),
                saved_ms=choice.saved_ms,
                **conversion.measure(SCORED, (choice,)).figures(),
                block_error=float(block_error),
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
                weights=str(weights[layout]),
                layers=resampled_layers(law, layout, save_ms, floor),
            )
            for save_ms, (layout, floor) in zip(conversion.saves_ms, chosen, strict=True)
        ],
        replacements=trained,
    )
