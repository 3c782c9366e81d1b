"""Checkpoints of a training: `step-NNNNNNNN/`, each a weights folder (network/weights.py) that can
be exported, with

    optimizer.safetensors    `<parameter>/<key>`, and torch's random numbers
    checkpoint.json          `Trainer.state`, and the sha256 of the other files and of itself

A folder gets its name when all its files are on the disk. It is then complete unless the disk
damaged it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from flashnas.base.errors import WeightsError
from flashnas.base.foreign import check_regular, read_json
from flashnas.base.system import atomic_folder, write_synced
from flashnas.network.weights import (
    ARCHITECTURE,
    MODEL,
    digest_of,
    fill,
    read_architecture,
    read_tensors,
    write_model,
    write_tensors,
)
from flashnas.training.trainer import Trainer

OPTIMIZER = "optimizer.safetensors"
SCALARS = "checkpoint.json"
_CPU_RANDOM, _CUDA_RANDOM = "random/cpu", "random/cuda"


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, the newest first."""
    folders = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def save_checkpoint(
    folder: Path,
    trainer: Trainer,
    tokenizer_json: str,
    keep: int,
    files: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a checkpoint of a training between two steps, with files beside the tokenizer, then
    remove all but the `keep` newest ones of the folder."""
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in trainer.network.named_parameters()
    }
    tensors = {
        f"{names[parameter]}/{key}": value
        for optimizer in trainer.optimizers.optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    path = folder / f"step-{trainer.done:08d}"
    tensors[_CPU_RANDOM] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        tensors[_CUDA_RANDOM] = torch.cuda.get_rng_state(trainer.device)
    with atomic_folder(path) as fresh:
        write_model(fresh, trainer.network, tokenizer_json=tokenizer_json, files=files)
        write_tensors(fresh / OPTIMIZER, tensors)
        content = {
            "trainer": trainer.state(),
            "sha256": {file.name: digest_of(file) for file in sorted(fresh.iterdir())},
        }
        write_synced(fresh / SCALARS, json.dumps({**content, "self": _digest(content)}, indent=1))
    saved = checkpoints(folder)
    newest = saved.index(path)  # those of later steps are damaged
    for old in [*saved[:newest], *saved[newest + keep :]]:
        shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove checkpoints that a killed process left unfinished."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def check_checkpoint(path: Path) -> None:
    """Raises WeightsError naming the first file that is missing or damaged."""
    for name, digest in _content(path)["sha256"].items():
        file = path / name
        if not file.exists():
            raise WeightsError(f"{file}: is missing")
        if digest_of(check_regular(file, WeightsError)) != digest:
            raise WeightsError(
                f"{file}: is damaged: its sha256 is not the recorded {digest[:16]}.."
            )


def load_checkpoint(path: Path, trainer: Trainer) -> None:
    """Set a fresh trainer to the state of a checkpoint; WeightsError if it is of another training.
    `check_checkpoint` compares digests."""
    content = _content(path)
    architecture, _ = read_architecture(path)
    if architecture.hash != trainer.architecture.hash:
        raise WeightsError(
            f"{path / ARCHITECTURE}: is a checkpoint of another architecture: {architecture};"
            f" this training's is {trainer.architecture}"
        )
    fill(trainer.network, read_tensors(path / MODEL), path / MODEL)
    tensors = read_tensors(path / OPTIMIZER)
    torch.set_rng_state(tensors.pop(_CPU_RANDOM, torch.get_rng_state()))
    cuda_random = tensors.pop(_CUDA_RANDOM, None)
    if cuda_random is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(cuda_random, trainer.device)
    owners = {
        parameter: optimizer
        for optimizer in trainer.optimizers.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    parameters = dict(trainer.network.named_parameters())
    for entry, value in tensors.items():
        name, _, key = entry.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size([])):
            raise WeightsError(
                f"{path / OPTIMIZER}: holds the optimizer state of another architecture: {entry}"
                f" {list(value.shape)} has no place in this one"
            )
        owners[parameter].state[parameter][key] = value.to(parameter.device)
    trainer.restore(content["trainer"])


def _content(path: Path) -> dict[str, Any]:
    file = path / SCALARS
    content = read_json(file, WeightsError)
    if not isinstance(content, dict) or not isinstance(digest := content.pop("self", None), str):
        raise WeightsError(f"{file}: is damaged: it has no sha256 of itself")
    if digest != _digest(content):
        raise WeightsError(f"{file}: is damaged: its sha256 is not the recorded {digest[:16]}..")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
