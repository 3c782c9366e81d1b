"""The figures of a conversion, with other layouts of as many changes beside each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flashnas.base.text import is_number
from flashnas.convert.choices import Choice, Layout, key_of, kind_of
from flashnas.convert.folder import weights_of
from flashnas.convert.found import (
    BudgetAnswer,
    ConversionFound,
    Finalist,
    OtherLayout,
    SingleChange,
    TrainedReplacement,
)
from flashnas.convert.law import SetLaw, SingleScores, rank_correlation
from flashnas.convert.load import FRESH, SCORED, Conversion
from flashnas.convert.measure import half_width
from flashnas.convert.select import resampled_layers


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
    agreement = {"block error": singles.block_error, "recall": singles.lost}
    mixers = [singles.choices.index(choice) for choice in conversion.removable_mixers]
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
        agreement_with_kl={
            name: value
            for name, values in agreement.items()
            if is_number(value := rank_correlation(singles.mean_kl[mixers], values[mixers]))
        },
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
                others=compare(conversion, singles, layout),
            )
            for save_ms, (layout, floor) in zip(conversion.saves_ms, chosen, strict=True)
        ],
        replacements=trained,
    )


def compare(conversion: Conversion, singles: SingleScores, layout: Layout) -> list[OtherLayout]:
    """What as many changes elsewhere lose on the same fresh documents."""
    config, choices = conversion.config, conversion.choices
    kinds = [spec.kind for spec in conversion.teacher.architecture.operators]
    layers = [choice.layer for choice in choices]
    error = dict(zip(layers, singles.block_error, strict=True))
    orders: list[tuple[str, Mapping[int, float] | None]] = [("evenly spaced", None)]
    orders.append(("by block error", error))
    generator = np.random.default_rng(config.seed)
    drawn = generator.random((config.comparisons, len(kinds)))
    orders += [("at random", dict(enumerate(values))) for values in drawn]
    layouts = [elsewhere(kinds, choices, layout, order) for _, order in orders]
    own = np.array(conversion.measure(FRESH, layout).kl)
    compared = []
    for (name, _), score in zip(orders, conversion.measure_all(FRESH, layouts), strict=True):
        more = np.array(score.kl) - own
        compared.append(
            OtherLayout(
                placement=name,
                **score.figures(),
                more=float(more.mean()),
                more_half=half_width(more),
            )
        )
    return compared


def elsewhere(
    kinds: Sequence[str],
    choices: Sequence[Choice],
    layout: Layout,
    order: Mapping[int, float] | None,
) -> Layout:
    """As many changes of each kind as a layout has, in other layers. kinds: of all layers; each
    kind apart. order: the layers of the lowest values come first; None: evenly spaced."""
    moved: dict[int, str] = {}
    for kind in {kinds[choice.layer] for choice in layout}:
        names = [choice.name for choice in layout if kinds[choice.layer] == kind]
        layers = sorted({choice.layer for choice in choices if kinds[choice.layer] == kind})
        if order is None:
            step = len(layers) / len(names)
            layers = [layers[int((n + 0.5) * step)] for n in range(len(names))]
        else:
            layers.sort(key=order.__getitem__)
        moved |= dict(zip(layers, names, strict=False))
    return tuple(choice for choice in choices if moved.get(choice.layer) == choice.name)
