"""Pretrained models in GGUF files, which strangers may have written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from flashnas.base.errors import WeightsError
from flashnas.base.foreign import check_regular
from flashnas.base.text import first_line, shown
from flashnas.data.tokenizer import checked_tokenizer, library_errors
from flashnas.families.pretrained import check_kind

MAX_READS = 3_000_000  # each takes 0.6 kB in memory; the largest vocabularies need 2 million
# key of config.json -> key of a GGUF file, behind the name of its architecture
KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "conv_L_cache": "shortconv.l_cache",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
TYPES = {"rope_theta": float, "rms_norm_eps": float}  # the others are whole numbers
OPTIONAL = ("head_dim", "rope_theta", "conv_L_cache")


class BoundedReader(gguf.GGUFReader):
    """Raises TypeError or ValueError for a length that exceeds the file. The class it is made of
    takes what lies behind the end for empty arrays, and goes through as many as the header says."""

    reads = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError(f"its header must hold at most {MAX_READS:,} values")
        in_order = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        return np.ndarray(int(count), in_order, self.data, offset)


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, gguf.ReaderTensor]]:
    """What config.json would say, and the tensors by name, with dimensions in torch's order; raises
    WeightsError, in one line, for a damaged file."""
    check_regular(path, WeightsError)
    try:
        reader = BoundedReader(path)
    except Exception as error:  # ValueError, IndexError and others, by kind of damage
        raise WeightsError(f"{path}: not a readable GGUF file: {first_line(error)}") from None
    if sum(tensor.n_bytes for tensor in reader.tensors) > path.stat().st_size:
        raise WeightsError(f"{path}: not a readable GGUF file: its tensors overlap")
    tensors = {
        tensor.name: tensor._replace(shape=tensor.shape[::-1].tolist()) for tensor in reader.tensors
    }
    if "rope_freqs.weight" in tensors:
        raise WeightsError(
            f"{path}: its rotary positions are scaled (rope_freqs.weight); convert from the folder"
            " of transformers"
        )

    def value(key: str, type_: type) -> Any:
        field = reader.get_field(key)
        try:
            found = field and field.contents()
        except UnicodeDecodeError:
            raise WeightsError(f"{path}:{key}: must be UTF-8 text") from None
        if type(found) is not type_:
            raise WeightsError(f"{path}:{key}: must be {type_.__name__}; got {shown(found)}")
        return found

    kind = value("general.architecture", str)
    check_kind(kind, path)
    types = {**TYPES, "num_key_value_heads": list if kind == "lfm2" else int}
    config = {
        name: value(f"{kind}.{key}", types.get(name, int))
        for name, key in KEYS.items()
        if name not in OPTIONAL or reader.get_field(f"{kind}.{key}")
    }
    if kind == "lfm2":  # key heads by layer, 0 for a convolution
        kv_heads = config["num_key_value_heads"]
        config["layer_types"] = ["full_attention" if count else "conv" for count in kv_heads]
        config["num_key_value_heads"] = max(kv_heads, default=0)
        config["block_auto_adjust_ff_dim"] = False
        config["norm_eps"] = config["rms_norm_eps"]
    config |= {
        "model_type": kind,
        "vocab_size": len(value("tokenizer.ggml.tokens", list)),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    return config, tensors


def numbers_of(tensor: gguf.ReaderTensor) -> Tensor:
    """In float32. Raises NotImplementedError for a type that the package gguf does not read."""
    return torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """As transformers reads it from the file alone: what lies beside it may be of a stranger."""
    import transformers

    with (
        library_errors(f"{path}: its tokenizer cannot be read"),
        tempfile.TemporaryDirectory() as folder,
    ):
        Path(folder, "model.gguf").symlink_to(path.absolute())
        words = transformers.AutoTokenizer.from_pretrained(
            folder, gguf_file="model.gguf", trust_remote_code=False
        )
    return checked_tokenizer(words.backend_tokenizer, path)
