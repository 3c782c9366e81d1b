"""Pretrained models as networks: folders of transformers (safetensors, also in shards) and GGUF
files."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_of_config
from flashnas.architecture.huggingface.config_json import read_json
from flashnas.base.errors import ConfigError, WeightsError
from flashnas.base.text import first_line, shown
from flashnas.data.tokenizer import SpecialTokens, load_tokenizer, vocab_size
from flashnas.families.family import writer_of
from flashnas.families.gguf.families import FAMILIES
from flashnas.families.pretrained import PIECES, check_kind, without_windows
from flashnas.network.model import HybridLM
from flashnas.network.weights import TOKENIZER, check_numbers, read_tensors, tensor_shapes

CONFIG = "config.json"
MOST_PARAMS = 10  # for each number that is there; where fewer are missing, a tensor is named
UNUSED = ("rotary_emb.inv_freq", "lm_head.weight", "output.weight")  # of a tied head


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model. read: reads its weights. tokenizer: None where the checkpoint has none.
    sequence_tokens: of its training, where an export says so. special: what it says of special
    tokens."""

    architecture: Architecture
    read: Callable[[], HybridLM]
    tokenizer: Tokenizer | None
    sequence_tokens: int | None = None
    special: SpecialTokens = field(default_factory=SpecialTokens)

    @functools.cached_property
    def network(self) -> HybridLM:
        """In float32 and evaluation mode. The weights are read when it is first asked for, and
        checked: WeightsError."""
        return self.read()

    @functools.cached_property
    def digest(self) -> str:
        """16 hex digits of the architecture and the weights."""
        digest = hashlib.sha256(self.architecture.notation.encode())
        for tensor in self.network.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def is_pretrained(path: Path) -> bool:
    """Whether there are weights that `load_pretrained` reads: a GGUF file, or a folder of
    transformers that is not an export of flashnas' own."""
    if path.suffix == ".gguf":
        return path.is_file()
    config = path / CONFIG
    return (
        config.is_file()
        and any(path.glob("*.safetensors"))
        and read_json(config).get("model_type") != "flashnas"
    )


def load_pretrained(path: str | Path) -> Pretrained:
    """Read a folder of transformers or a GGUF file, but for its weights: see `network`.

    Raises:
        WeightsError, ArchitectureError: in one line, for a model that is not read.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    place, words = path / CONFIG, path / TOKENIZER
    if not place.is_file():
        raise WeightsError(
            f"{path}: is neither a GGUF file nor a folder of transformers (it has no {CONFIG})"
        )
    config = read_json(place)
    architecture = architecture_of_config(config, str(place), whole=True)
    tokenizer = load_tokenizer(words) if words.exists() else None
    special = SpecialTokens.beside(words)
    if not special.generation:  # older models say it there
        ids = {key: config[key] for key in SpecialTokens().keys(None) if key in config}
        special = replace(special, generation=ids)
    read = functools.partial(_filled, path, architecture, functools.partial(_tensors_of, path))
    if family := writer_of(config, architecture):
        read = functools.partial(read, family.pieces, None)
        return Pretrained(architecture, read, tokenizer, trained_length(config), special)
    check_kind(config["model_type"], path)
    read = functools.partial(read, PIECES[config["model_type"]][0], _eps(config, place))
    return Pretrained(architecture, read, tokenizer, special=special)


def _from_gguf(path: Path) -> Pretrained:
    try:
        import transformers  # noqa: F401 - for some tokenizers

        from flashnas.families.gguf import reader
    except ImportError as error:
        raise WeightsError(
            f"{path}: needs the package {error.name}: pip install 'flashnas[llama-cpp,export]'"
        ) from None
    file = reader.GgufFile(path)
    architecture, pieces_of, eps = file.own(), None, None
    if architecture is None:
        config = file.config()
        architecture = architecture_of_config(config, str(path))
        pieces_of, eps = PIECES[file.kind][1], _eps(config, path)
    pieces_of = pieces_of or FAMILIES[file.kind].pieces
    read = functools.partial(
        _filled, path, architecture, lambda: file.tensors, pieces_of, eps, reader.numbers_of
    )
    tokenizer, special = file.words()
    return Pretrained(architecture, read, tokenizer, special=special)


def _eps(config: Mapping[str, Any], place: Path) -> float:
    """Of the norms, and what transformers takes where there is none."""
    key, default = ("norm_eps", 1e-5) if config["model_type"] == "lfm2" else ("rms_norm_eps", 1e-6)
    eps = config.get(key, default)
    if type(eps) is not float or not 0 < eps < 1:
        raise WeightsError(f"{place}:{key}: must be a number between 0 and 1; got {shown(eps)}")
    return eps


def trained_length(config: Mapping[str, Any]) -> int | None:
    """`sequence_tokens` of the training, which exports record in their configuration."""
    tokens = config.get("sequence_tokens")
    return tokens if type(tokens) is int and tokens > 0 else None


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


@torch.no_grad()
def _filled(
    path: Path,
    architecture: Architecture,
    tensors_of: Callable[[], Mapping[str, Any]],
    pieces_of: Callable[[Architecture, float | None], Sequence[Any]],
    eps: float | None,
    read: Callable[[Any], Tensor] = Tensor.detach,
) -> HybridLM:
    """The network with the tensors of a checkpoint. It is built once their shapes are as the
    configuration says. eps: of its norms; None: as an export has them. read: one of them -> its
    numbers."""
    tensors = tensors_of()
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if architecture.params > MOST_PARAMS * numbers:
        raise WeightsError(
            f"{path}: its configuration asks for {architecture.params:,} parameters; its weights"
            f" have {numbers:,}"
        )
    shapes = {
        name: torch.empty(shape, device="meta") for name, shape in tensor_shapes(architecture)
    }
    pieces, left = pieces_of(without_windows(architecture), eps), set(tensors)
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
        place = f"{path}: {piece.name}"
        try:
            values = read(tensors[piece.name])
        except NotImplementedError as error:
            raise WeightsError(f"{place}: {first_line(error)}") from None
        check_numbers(values, place)
        if not piece.source and not torch.allclose(values, piece.of(state), rtol=1e-4):
            raise WeightsError(f"{place} is not what its configuration asks for")
        piece.back(values.float(), state)
    return network.eval()


def tokenizer_of(model: Pretrained, name: str, file: str | None) -> tuple[Tokenizer, SpecialTokens]:
    """The tokenizer in a file, or else the model's own, and its special tokens.

    Args:
        name: of the model, as the user wrote it.

    Raises:
        ConfigError: there is none, or it is not the model's.
    """
    tokenizer = model.tokenizer if file is None else load_tokenizer(file)
    if tokenizer is None:
        raise ConfigError(f"{name}: has no tokenizer; name one with --tokenizer")
    vocab = model.architecture.vocab
    if vocab_size(tokenizer) > vocab:
        raise ConfigError(
            f"convert.tokenizer: its ids go up to {vocab_size(tokenizer) - 1}; the model's"
            f" vocabulary ends at {vocab - 1}"
        )
    return tokenizer, SpecialTokens.beside(file) if file else model.special
