"""Weights on disk: a folder with `architecture.yaml`, `model.safetensors` and, where there is one,
`tokenizer.json`.

`flashnas train` writes it, `flashnas export` reads it. Tensors have the names of
`HybridLM.state_dict()`.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.documents import read_yaml
from flashnas.base.errors import WeightsError
from flashnas.base.foreign import check_regular
from flashnas.base.system import FILE_MODE, atomic_folder, system_error, write_synced
from flashnas.network.model import HybridLM

ARCHITECTURE = "architecture.yaml"
MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
_READ_BYTES = 1 << 24


def save_model(
    folder: str | Path,
    network: HybridLM,
    *,
    tokenizer_json: str | None = None,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the folder as a whole (beside its place, then renamed), in place of one of an earlier
    call.

    Args:
        tokenizer_json: text of the tokenizer's file, or None.
        files: further texts by name, such as the recipe.

    Raises WeightsError if the folder holds something else, OSError for a full or read-only disk.
    """
    folder = Path(folder)
    if (
        folder.exists()
        and not (folder / ARCHITECTURE).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise WeightsError(
            f"{folder}: exists and holds no weights (it has no {ARCHITECTURE});"
            " choose another folder"
        )
    with atomic_folder(folder) as fresh:
        write_model(fresh, network, tokenizer_json=tokenizer_json, files=files)
    return folder


def write_model(
    folder: Path,
    network: HybridLM,
    *,
    tokenizer_json: str | None = None,
    files: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the files of a weights folder into a folder that is there; arguments as of
    `save_model`."""
    architecture = network.architecture
    digest = write_tensors(folder / MODEL, network.state_dict())
    entry = {
        "architecture": architecture.to_dict(),
        "notation": architecture.notation,
        "hash": architecture.hash,
        "params": architecture.params,
        "sha256": digest,
    }
    write_synced(folder / ARCHITECTURE, yaml.safe_dump(entry, sort_keys=False, width=120))
    if tokenizer_json is not None:
        write_synced(folder / TOKENIZER, tokenizer_json)
    for name, text in files.items():
        write_synced(folder / name, text)


def load_model(folder: str | Path) -> HybridLM:
    """The network of a folder that `save_model` wrote, on the CPU, with the weights' dtype, in
    training mode.

    Raises WeightsError in one line for a missing or damaged file and for weights of another
    architecture.
    """
    folder = Path(folder)
    architecture, recorded = read_architecture(folder)
    digest = recorded.get("sha256")
    if digest is not None and not isinstance(digest, str):
        raise WeightsError(f"{folder / ARCHITECTURE}: sha256 must be text; got {digest!r}")
    return network_of(architecture, read_tensors(folder / MODEL, digest), folder / MODEL)


def network_of(architecture: Architecture, tensors: Mapping[str, Tensor], path: Path) -> HybridLM:
    """The network with the tensors of a file, in their dtype. It is built once they fit, so that a
    small file cannot ask for a large network. Raises WeightsError as `fill` does."""
    _check_fit(tensor_shapes(architecture), tensors, path)
    with torch.random.fork_rng(devices=[]):
        # the start that is drawn and overwritten leaves no trace
        network = HybridLM(architecture)
    if len(dtypes := {tensor.dtype for tensor in tensors.values()}) == 1:
        network.to(dtypes.pop())
    network.load_state_dict(dict(tensors))
    return network


def tensor_shapes(architecture: Architecture) -> Iterator[tuple[str, Sequence[int]]]:
    """Name and shape of each tensor of HybridLM, which is not built."""
    hidden, vocab = architecture.hidden, architecture.vocab
    yield "embedding.weight", (vocab, hidden)
    if architecture.meta_tokens:
        yield "meta_tokens", (architecture.meta_tokens, hidden)
    for n, spec in enumerate(architecture.operators):
        yield f"layers.{n}.norm.weight", (hidden,)
        for name, tensor in spec.named_tensors(hidden).items():
            yield f"layers.{n}.mixer.{name}", tensor.shape
    yield "final_norm.weight", (hidden,)
    if not architecture.tied:
        yield "head.weight", (vocab, hidden)


def read_architecture(folder: str | Path) -> tuple[Architecture, dict[str, Any]]:
    """The architecture of a weights folder and all that its file records; raises WeightsError if
    there is none."""
    path = Path(folder) / ARCHITECTURE
    if not path.exists():
        raise WeightsError(
            f"{folder}: holds no weights (it has no {ARCHITECTURE});"
            " name a folder that flashnas train wrote, such as RUN/final"
        )
    return load_architecture(str(path)), dict(read_yaml(path))


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a network; raises WeightsError naming what is missing, left over, of
    another shape, or no finite floating-point numbers.
    """
    shapes = ((name, tensor.shape) for name, tensor in network.state_dict().items())
    _check_fit(shapes, tensors, path)
    network.load_state_dict(dict(tensors))


def check_numbers(tensor: Tensor, place: str) -> None:
    """Raise WeightsError unless a tensor has finite numbers of a type that needs no scales."""
    if not tensor.is_floating_point() or tensor.itemsize < 2:
        raise WeightsError(f"{place} must be of 16-bit floats or wider ones; got {tensor.dtype}")
    if not tensor.isfinite().all():
        raise WeightsError(f"{place} must be finite; got NaN or infinity")


def _check_fit(
    shapes: Iterable[tuple[str, Sequence[int]]], tensors: Mapping[str, Tensor], path: Path
) -> None:
    another = f"{path}: holds the weights of another architecture"
    left = set(tensors)
    for name, shape in shapes:
        if name not in tensors:
            raise WeightsError(f"{another}: {name} {list(shape)} is missing")
        left.discard(name)
        if tensors[name].shape != torch.Size(shape):
            raise WeightsError(
                f"{another}: {name} is {list(tensors[name].shape)}, this one needs {list(shape)}"
            )
        check_numbers(tensors[name], f"{path}: {name}")
    if extra := sorted(left):
        raise WeightsError(
            f"{another}: {extra[0]} has no place in this one"
            + (f" (nor have {len(extra) - 1} others)" if len(extra) > 1 else "")
        )


# -- files -----------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file to the disk; returns its sha256. Raises OSError for a full or
    read-only disk.
    """
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        if system := system_error(error):
            raise OSError(system.errno, system.strerror, str(path)) from None
        raise
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(path, FILE_MODE)
    return digest_of(path)


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file; raises WeightsError if it is missing, damaged, or has not
    this digest."""
    check_regular(path, WeightsError)
    try:
        if sha256 is not None and digest_of(path) != sha256:
            raise WeightsError(
                f"{path}: is damaged: its sha256 is not the recorded {sha256[:16]}.."
            )
        return dict(load_file(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise WeightsError(f"{path}: is damaged: {str(error).splitlines()[0]}") from None


def digest_of(*paths: Path) -> str:
    """sha256 of a file, or of several in order."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()
