"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from flashnas.architecture.source import position_limit
from flashnas.base.errors import DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.conversion.choices import Layout, key_of, kind_of
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.folder import weights_of, write_folder, write_weights
from flashnas.conversion.found import (
    BudgetAnswer,
    ConversionFound,
    Finalist,
    SingleChange,
    TrainedReplacements,
)
from flashnas.conversion.law import SetLaw
from flashnas.conversion.load import FRESH, SCORED, Conversion, Note, load_conversion
from flashnas.conversion.select import resampled_layers
from flashnas.conversion.stages import learn_law, measure_finalists, score_singles, within


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
    with disk_errors(f"{config.out}: cannot be written", RunError):
        config.out.mkdir(parents=True, exist_ok=True)
    busy = RunError(f"{config.out}: another process is writing this conversion")
    with hold_lock(config.out / ".lock", busy):
        conversion = load_conversion(config, note, progress)
        trained = conversion.train_replacements(note)
        singles = score_singles(conversion, note)
        write_folder(conversion, SCORED, command)
        law = learn_law(conversion, singles)
        write_folder(conversion, SCORED, command)
        chosen = [within(conversion, law, save_ms) for save_ms in conversion.saves_ms]
        finalists = measure_finalists(conversion, law, [layout for layout, _ in chosen])
        write_folder(conversion, FRESH, command)
        found = described(conversion, law, finalists, chosen, trained)
        layouts = {key_of(layout): layout for layout, _ in chosen}
        accepted = [layouts[answer.layout] for answer in found.answers if answer.weights]
        found = replace(found, texts=write_weights(conversion, accepted))
        write_folder(conversion, FRESH, command, asdict(found))
    return found


def described(
    conversion: Conversion,
    law: SetLaw,
    finalists: list[Finalist],
    chosen: Sequence[tuple[Layout, float]],
    trained: TrainedReplacements | None,
) -> ConversionFound:
    """All figures. chosen: for each budget its layout, and the floor of recall that it keeps."""
    text = conversion.student(SCORED).text
    model = next(iter(conversion.times.models.values()))
    return ConversionFound(
        run=str(conversion.config.out),
        model=conversion.config.model,
        data=conversion.config.data,
        notation=conversion.teacher.architecture.notation,
        times=conversion.times.source,
        model_ms=conversion.milliseconds(()),
        loss=float(np.mean(text.loss)),
        probes_done=len(text.probes),
        probes=len(text.draw.probes),
        law=law.summary(),
        singles=[
            SingleChange(
                layer=choice.layer,
                kind=kind_of(conversion.teacher.architecture, choice),
                saved_ms=choice.saved_ms,
                **conversion.measure(SCORED, (choice,)).figures(),
            )
            for choice in law.scores.choices
        ],
        finalists=finalists,
        answers=answers_of(conversion, law, finalists, chosen),
        replacements=trained,
        fresh_loss=float(np.mean(conversion.student(FRESH).text.loss)),
        memory_gb=model.memory_gb(conversion.teacher.architecture),
        context=conversion.config.context,
        request=model.workload.context,
    )


def answers_of(
    conversion: Conversion,
    law: SetLaw,
    finalists: Sequence[Finalist],
    chosen: Sequence[tuple[Layout, float]],
) -> list[BudgetAnswer]:
    """The answer for each budget; one that is refused has no weights."""
    refused = {finalist.layout: finalist.refused for finalist in finalists}
    accepted = [layout for layout, _ in chosen if not refused[key_of(layout)]]
    weights = weights_of(conversion, accepted)
    return [
        BudgetAnswer(
            budget_ms=conversion.milliseconds(()) - save_ms,
            latency_ms=conversion.milliseconds(layout),
            layout=key_of(layout),
            recall_floor=floor,
            refused=refused[key_of(layout)],
            weights=str(weights[layout]) if layout in weights else None,
            layers=resampled_layers(law, layout, save_ms, floor),
        )
        for save_ms, (layout, floor) in zip(conversion.saves_ms, chosen, strict=True)
    ]
