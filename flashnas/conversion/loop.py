"""A conversion from top to bottom: read, price, score single changes, sets, choose, measure again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from flashnas.architecture.source import position_limit
from flashnas.base.errors import DeviceError, RunError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.describe import describe
from flashnas.conversion.finalists import measure_finalists, within
from flashnas.conversion.folder import write_folder, write_weights
from flashnas.conversion.found import ConversionFound
from flashnas.conversion.load import FRESH, SCORED, Note, load_conversion
from flashnas.conversion.scores import learn_law, score_singles


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
        layouts = [layout for layout, _ in chosen]
        finalists = measure_finalists(conversion, law, layouts)
        write_folder(conversion, FRESH, command)
        found = describe(conversion, law, finalists, chosen, trained)
        write_weights(conversion, layouts)
        write_folder(conversion, FRESH, command, asdict(found))
    return found
