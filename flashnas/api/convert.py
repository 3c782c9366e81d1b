"""Which layers of a pretrained model may go, within a budget of milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flashnas.api.calling import Result, silent, takes, writable_out
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.found import ConversionFound


class Converted(ConversionFound, Result):
    """What a conversion found; its fields are those of a ConversionFound. `singles`: each change
    alone. `finalists`: predicted and measured on fresh text. `answers`: for each budget the layout,
    how sure each layer is, and the folder of its weights."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        from flashnas.reporting.conversion import conversion_text

        return conversion_text(self)


@takes(ConvertConfig)
def convert(
    options: ConvertConfig,
    *,
    progress: Callable[..., None] = silent,
    note: Callable[[str], None] = silent,
    command: str = "flashnas.convert",
) -> Converted:
    """Find which layers of a pretrained model may become a window, narrower, or nothing, so that it
    keeps a budget of milliseconds. With `replacements`, operators are trained to take the place of
    attention; nothing else is.

    Each change is scored alone on a text: by its KL to the model, and by how much of the model's
    own recall is left. Sets of changes are measured to learn how they add up; the set of the lowest
    expected KL is then chosen exactly, and measured on text that nothing was chosen by. An answer
    that loses more than `max_kl` and `min_recall` allow is refused: it has no weights. What was
    measured stays in the folder: a killed conversion goes on, and another budget, table or workload
    in the same folder uses it.

    Returns:
        A Converted: `answers`, `finalists`, `singles`. `print` shows it.

    Raises:
        WeightsError, ArchitectureError: the model cannot be read.
        BudgetError: no layout meets a budget, or the model itself does.
        CorpusError: the text is too short.
        ConfigError: for an option that does not suit the model, such as a program that does not
            load it.
        RunError: the folder holds measurements of another question.

    Example:
        >>> import flashnas as fn
        >>> found = fn.convert("my_model", budget_ms="85%", calibration="paper", context=256, documents=4,
        ...                    prompts=2, recall=0, sets=6, finalists=3, out="my_conversion")
        >>> found.answers[0].latency_ms <= found.answers[0].budget_ms
        True
    """
    writable_out(options, holds="measurements.jsonl")

    from flashnas.conversion.loop import convert_model

    found = convert_model(options, note=note, progress=progress, command=command)
    return Converted(**vars(found))
