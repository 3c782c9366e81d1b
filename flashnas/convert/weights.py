"""Pretrained models as networks: folders of transformers (safetensors, also in shards) and GGUF
files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_of_config
from flashnas.architecture.huggingface.config_json import read_json
from flashnas.base.errors import ConfigError, WeightsError
from flashnas.base.text import first_line, one_of, shown
from flashnas.data.tokenizer import library_errors, load_tokenizer, vocab_size
from flashnas.formats.pieces import Piece
from flashnas.formats.pretrained import PIECES, stream_scale
from flashnas.network.model import HybridLM
from flashnas.network.weights import TOKENIZER, read_tensors

CONFIG = "config.json"
UNUSED = ("rotary_emb.inv_freq", "lm_head.weight", "output.weight")  # of a tied head
# key of config.json -> key of a GGUF file, behind the name of its architecture
GGUF_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "conv_L_cache": "shortconv.l_cache",
}


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model. network: in float32 and evaluation mode. tokenizer: None where the
    checkpoint has none."""

    network: HybridLM
    tokenizer: Tokenizer | None


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
    """Read a folder of transformers or a GGUF file.

    Raises:
        WeightsError, ArchitectureError: in one line, for a model that is not read, and for weights
            that are missing, damaged or do not fit their configuration.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return _load_gguf(path)
    if not (path / CONFIG).is_file():
        raise WeightsError(
            f"{path}: is neither a GGUF file nor a folder of transformers (it has no {CONFIG})"
        )
    config = read_json(path / CONFIG)
    architecture = architecture_of_config(config, str(path / CONFIG))
    kind = config["model_type"]
    _check_kind(path, kind)
    # and what transformers takes where there is none
    key, default = ("norm_eps", 1e-5) if kind == "lfm2" else ("rms_norm_eps", 1e-6)
    eps = config.get(key, default)
    if type(eps) is not float or not 0 < eps < 1:
        raise WeightsError(
            f"{path / CONFIG}:{key}: must be a number between 0 and 1; got {shown(eps)}"
        )
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{path}: holds no weights (it has no *.safetensors)")
    tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
    pieces_of = PIECES[kind][0]
    network = _filled(path, architecture, pieces_of(architecture, stream_scale(eps)), tensors)
    words = path / TOKENIZER
    return Pretrained(network, load_tokenizer(words) if words.exists() else None)


def _check_kind(path: Path, kind: str) -> None:
    if kind not in PIECES:
        raise WeightsError(one_of(f"{path}: the model type of weights that are read", kind, PIECES))


@torch.no_grad()
def _filled(
    path: Path,
    architecture: Architecture,
    pieces: Iterable[Piece],
    tensors: Mapping[str, Any],
    read: Callable[[Any], Tensor] = Tensor.float,
) -> HybridLM:
    """The network with the tensors of a checkpoint. read: one of them -> in float32."""
    with torch.random.fork_rng(devices=[]):
        network = HybridLM(architecture)
    state, left = network.state_dict(), set(tensors)
    for piece in pieces:
        if piece.name not in tensors:
            raise WeightsError(f"{path}: its weights lack {piece.name}")
        left.discard(piece.name)
        try:
            piece.back(read(tensors[piece.name]), state)
        except (RuntimeError, TypeError) as error:
            raise WeightsError(
                f"{path}: {piece.name} does not fit its configuration: {first_line(error)}"
            ) from None
    if unread := sorted(name for name in left if not name.endswith(UNUSED)):
        raise WeightsError(f"{path}: holds {unread[0]}, which this kind of model does not have")
    return network.eval()


def _load_gguf(path: Path) -> Pretrained:
    try:
        import gguf
        import transformers
    except ImportError as error:
        raise WeightsError(
            f"{path}: needs the package {error.name}: pip install 'flashnas[llama-cpp,export]'"
        ) from None
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # ValueError, IndexError and others, by kind of damage
        raise WeightsError(f"{path}: not a readable GGUF file: {first_line(error)}") from None

    def value(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        return default if field is None else field.contents()

    kind = value("general.architecture")
    _check_kind(path, kind)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "rope_freqs.weight" in tensors:
        raise WeightsError(
            f"{path}: its rotary positions are scaled (rope_freqs.weight); convert from the folder"
            " of transformers"
        )
    config = {
        name: number
        for name, key in GGUF_KEYS.items()
        if (number := value(f"{kind}.{key}")) is not None
    }
    if kind == "lfm2":  # key heads by layer, 0 for a convolution
        kv_heads = config["num_key_value_heads"]
        config["layer_types"] = ["full_attention" if count else "conv" for count in kv_heads]
        config["num_key_value_heads"] = max(kv_heads)
        config["block_auto_adjust_ff_dim"] = False
    config |= {
        "model_type": kind,
        "vocab_size": len(value("tokenizer.ggml.tokens", [])),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    architecture = architecture_of_config(config, str(path))
    eps = value(f"{kind}.attention.layer_norm_rms_epsilon", 1e-5)
    network = _filled(
        path,
        architecture,
        PIECES[kind][1](architecture, stream_scale(eps)),
        tensors,
        lambda tensor: torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type)),
    )
    with library_errors(f"{path}: its tokenizer cannot be read"):
        words = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return Pretrained(network, words.backend_tokenizer)


def tokenizer_of(model: Pretrained, name: str, file: str | None) -> Tokenizer:
    """The tokenizer in a file, or else the model's own.

    Args:
        name: of the model, as the user wrote it.

    Raises:
        ConfigError: there is none, or it is not the model's.
    """
    tokenizer = model.tokenizer if file is None else load_tokenizer(file)
    if tokenizer is None:
        raise ConfigError(f"{name}: has no tokenizer; name one with --tokenizer")
    vocab = model.network.architecture.vocab
    if vocab_size(tokenizer) > vocab:
        raise ConfigError(
            f"convert.tokenizer: its ids go up to {vocab_size(tokenizer) - 1}; the model's"
            f" vocabulary ends at {vocab - 1}"
        )
    return tokenizer
