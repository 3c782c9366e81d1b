"""An export with `--to hf`, read back: the one format that holds every network."""

from __future__ import annotations

from pathlib import Path

from flashnas.base.errors import WeightsError
from flashnas.base.foreign import read_json
from flashnas.base.hints import first_line
from flashnas.network.model import HybridLM
from flashnas.network.weights import MODEL, fill, read_tensors

CONFIG = "config.json"


def read_export(folder: Path) -> tuple[HybridLM, int | None] | None:
    """The network, and the length of its training's sequences where it is recorded; None for another folder.

    Raises WeightsError in one line for a damaged file.
    """
    path = folder / CONFIG
    data = read_json(path, WeightsError) if path.is_file() else None
    if not isinstance(data, dict) or data.get("model_type") != "flashnas":
        return None
    try:
        from flashnas.export.transformers import FlashnasConfig

        network = HybridLM(FlashnasConfig.from_dict(data).to_architecture())
    except Exception as error:  # transformers raises anything from TypeError to errors of its own
        raise WeightsError(f"{path}: not the configuration of an export: {first_line(error)}") from None
    tensors = read_tensors(folder / MODEL)
    fill(network, {name.removeprefix("model."): tensor for name, tensor in tensors.items()}, folder / MODEL)
    tokens = data.get("sequence_tokens")
    return network, tokens if isinstance(tokens, int) and tokens > 0 else None
