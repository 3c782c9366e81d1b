"""Networks read back: an export with `--to hf`, which holds every network, and folders of LFM2."""

from __future__ import annotations

from pathlib import Path

import torch

from flashnas.architecture.huggingface import architecture_from_hf
from flashnas.base.errors import WeightsError
from flashnas.base.foreign import read_json
from flashnas.base.text import first_line, shown
from flashnas.formats.lfm2 import model_pieces
from flashnas.network.model import HybridLM
from flashnas.network.weights import MODEL, fill, read_tensors

CONFIG = "config.json"


def read_export(folder: Path) -> tuple[HybridLM, int | None] | None:
    """The network, and the length of its training's sequences where it is recorded; None for
    another folder.
    """
    path = folder / CONFIG
    data = read_json(path, WeightsError) if path.exists() else None
    if isinstance(data, dict) and data.get("model_type") == "lfm2":
        eps = data.get("norm_eps", 1e-5)
        if type(eps) is not float or not 0 < eps < 1:
            raise WeightsError(
                f"{path}:norm_eps: must be a number between 0 and 1; got {shown(eps)}"
            )
        return read_lfm2(folder, eps), None
    if not isinstance(data, dict) or data.get("model_type") != "flashnas":
        return None
    try:
        from flashnas.export.transformers import FlashnasConfig

        network = HybridLM(FlashnasConfig.from_dict(data).to_architecture())
    except Exception as error:  # transformers raises anything from TypeError to errors of its own
        raise WeightsError(
            f"{path}: not the configuration of an export: {first_line(error)}"
        ) from None
    tensors = read_tensors(folder / MODEL)
    fill(
        network,
        {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        folder / MODEL,
    )
    tokens = data.get("sequence_tokens")
    return network, tokens if isinstance(tokens, int) and tokens > 0 else None


@torch.no_grad()
def read_lfm2(folder: Path, eps: float) -> HybridLM:
    """The network of a folder of transformers, such as a released LFM2. eps: of its norms.

    Raises:
        ArchitectureError, WeightsError: in one line, for what cannot be read.
    """
    network = HybridLM(architecture_from_hf(folder))
    tensors = {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in read_tensors(path).items()
    }
    state = network.state_dict()
    for piece in model_pieces(network.architecture, eps):
        if piece.name not in tensors:
            raise WeightsError(f"{folder}: its weights lack {piece.name}")
        try:
            piece.back(tensors[piece.name].float(), state)
        except (RuntimeError, TypeError) as error:
            raise WeightsError(
                f"{folder}: {piece.name} does not fit its configuration: {first_line(error)}"
            ) from None
    return network
