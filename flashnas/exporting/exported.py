"""The weights of a folder that `flashnas export --to hf` wrote."""

from pathlib import Path

import torch
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_of_config
from flashnas.architecture.huggingface.config_json import read_json
from flashnas.base.errors import WeightsError
from flashnas.base.text import first_line
from flashnas.families.family import Family, writer_of
from flashnas.network.model import HybridLM
from flashnas.network.weights import MODEL, check_numbers, network_of, read_tensors, tensor_shapes

MODEL_CONFIG = "config.json"
UNUSED = ("rotary_emb.inv_freq", "lm_head.weight")  # of a tied head


def read_export(folder: Path) -> tuple[HybridLM, int | None]:
    """The network of a folder of `--to hf`, in float32, and the length of the sequences of its
    training, where that is recorded."""
    file = folder / MODEL_CONFIG
    config = read_json(file)
    recorded = config.get("sequence_tokens")
    tokens = recorded if type(recorded) is int and recorded > 0 else None
    if config.get("model_type") != "flashnas":
        architecture = architecture_of_config(config, str(file), whole=True)
        family = writer_of(config, architecture)
        if family is None:
            raise WeightsError(
                f"{folder}: flashnas did not write these weights, and reads its own alone; 0.2.0"
                " reads pretrained models"
            )
        return _of_family(folder, family, architecture), tokens
    try:
        from flashnas.exporting.transformers import FlashnasConfig

        architecture = FlashnasConfig.from_dict(config).to_architecture()
    except Exception as error:  # transformers raises anything from TypeError to errors of its own
        raise WeightsError(
            f"{file}: not the configuration of an export: {first_line(error)}"
        ) from None
    weights = folder / MODEL
    tensors = {
        name.removeprefix("model."): tensor for name, tensor in read_tensors(weights).items()
    }
    return network_of(architecture, tensors, weights).float(), tokens


@torch.no_grad()
def _of_family(path: Path, family: Family, architecture: Architecture) -> HybridLM:
    """The network with the tensors of the folder, in float32. It is built once their shapes are as
    its configuration says; WeightsError in one line where they are not."""
    tensors = _tensors_of(path)
    shapes = {
        name: torch.empty(shape, device="meta") for name, shape in tensor_shapes(architecture)
    }
    pieces, left = family.pieces(architecture), set(tensors)
    for piece in pieces:
        if piece.name not in tensors:
            raise WeightsError(f"{path}: its weights lack {piece.name}")
        left.discard(piece.name)
        needed = list(piece.of(shapes).shape)
        got = list(tensors[piece.name].shape)
        if got != needed:
            raise WeightsError(
                f"{path}: {piece.name} is {got}; its configuration asks for {needed}"
            )
    if unread := sorted(name for name in left if not name.endswith(UNUSED)):
        raise WeightsError(f"{path}: holds {unread[0]}, which this kind of model does not have")
    with torch.random.fork_rng(devices=[]):
        network = HybridLM(architecture)
    state = network.state_dict()
    for piece in pieces:
        values = tensors[piece.name]
        check_numbers(values, f"{path}: {piece.name}")
        piece.back(values.float(), state)
    return network


def _tensors_of(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                raise WeightsError(f"{file}: holds {name}, as does another file of the folder")
            tensors[name] = tensor
    if not tensors:
        raise WeightsError(f"{folder}: holds no weights (it has no *.safetensors)")
    return tensors
