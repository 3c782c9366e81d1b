"""A network's tensors as a GGUF file: the types of weights, and one writer for trained and for random
weights."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import torch
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.formats.gguf.families import family_of
from flashnas.formats.gguf.vocabulary import Vocabulary, vocabulary
from flashnas.formats.pieces import Piece
from flashnas.network.model import Block

Type = gguf.GGMLQuantizationType
# of a weight, and of the embedding and the head: these stay at 8 bits in a file of 4, as in files of
# llama.cpp itself
TYPES: Mapping[str, tuple[Type, Type, gguf.LlamaFileType]] = MappingProxyType({
    "f32": (Type.F32, Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Type.Q4_0, Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q4_0),
})
BLOCK = 32  # weights of a row that a quantized type holds together
SCALE = 0.02  # of random embeddings


def write_file(file: Path, architecture: Architecture, words: Vocabulary, type_name: str,
               tensors: Mapping[str, Tensor],
               taken: Callable[[Piece, Tensor], None] | None = None) -> int:
    """Write a network as llama.cpp reads it.

    Args:
        file: to write.
        architecture: which one of FAMILIES must hold.
        words: tokens of the file; those that were added get rows behind the embedding and the head.
        type_name: of the weights, one of TYPES.
        tensors: as HybridLM has them. Tensors that are the same object are converted once.
        taken: called with each piece and what a reader of the file gets for it, in float32.

    Returns:
        The number of matrices in f16 because their rows are not multiples of BLOCK.

    Raises:
        ExportError: no architecture of llama.cpp holds the network.
        OSError: the file cannot be written; with the system's reason.
    """
    family = family_of(architecture)
    writer = gguf.GGUFWriter(file, family.format.name)
    writer.add_name(architecture.hash)
    writer.add_description(f"flashnas {architecture.notation}")
    writer.add_file_type(TYPES[type_name][2])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    family.write_keys(writer, architecture)
    words.write_keys(writer)
    tensors = _with_added_rows(tensors, words)
    wide = 0
    converted: dict[tuple[int, str], np.ndarray] = {}
    for piece in family.pieces(architecture):
        type_ = _type_of(piece, tensors, type_name)
        wide += type_ is Type.F16 and type_name.startswith("q")
        key = id(tensors.get(piece.source)), piece.name.split(".", 2)[-1]
        if key not in converted:
            converted[key] = gguf.quants.quantize(np.ascontiguousarray(piece.of(tensors).numpy()), type_)
        writer.add_tensor(piece.name, converted[key], raw_dtype=type_)
        if taken is not None:
            taken(piece, torch.from_numpy(gguf.quants.dequantize(converted[key], type_).astype(np.float32)))
    _write(writer, file)
    return wide


@torch.no_grad()
def write_random_file(file: Path, architecture: Architecture, type_name: str) -> None:
    """A file with random weights, for timings; equal operators share theirs. Raises as `write_file` does."""
    architecture = architecture.canonical()
    shape = architecture.vocab, architecture.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {spec: Block(spec, architecture.hidden).state_dict()
                  for spec in dict.fromkeys(architecture.operators)}
        tensors = {f"layers.{n}.{name}": tensor for n, spec in enumerate(architecture.operators)
                   for name, tensor in blocks[spec].items()}
        tensors |= {"embedding.weight": SCALE * torch.randn(shape), "final_norm.weight": torch.ones(shape[1])}
        if not architecture.tied:
            tensors["head.weight"] = SCALE * torch.randn(shape)
        if architecture.meta_tokens:
            tensors["meta_tokens"] = SCALE * torch.randn(architecture.meta_tokens, shape[1])
    write_file(file, architecture, vocabulary(None, architecture.vocab, architecture.meta_tokens), type_name,
               tensors)


def _write(writer: gguf.GGUFWriter, file: Path) -> None:
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy says only how much it wrote; a further write gives the reason
        with open(file, "ab") as stream:
            stream.write(bytes(1 << 20))
        raise OSError(errno.EIO, f"the file is incomplete: {error}", str(file)) from None


def _with_added_rows(tensors: Mapping[str, Tensor], words: Vocabulary) -> dict[str, Tensor]:
    """Rows for the added tokens behind the embedding and the head: the meta token's, or zeros."""
    tensors = dict(tensors)
    if not words.added:
        return tensors
    embedding = tensors["embedding.weight"]
    rows = [embedding, *([tensors["meta_tokens"]] if "meta_tokens" in tensors else [])]
    missing = len(words.tokens) - sum(map(len, rows))
    extended = {**tensors, "embedding.weight": torch.cat([*rows, embedding.new_zeros(missing,
                                                                                     embedding.shape[1])])}
    if "head.weight" in tensors:
        head = tensors["head.weight"]
        extended["head.weight"] = torch.cat([head, head.new_zeros(words.added, head.shape[1])])
    return extended


def _type_of(piece: Piece, tensors: Mapping[str, Tensor], name: str) -> Type:
    if not piece.matrix:
        return Type.F32
    usual, ends, _ = TYPES[name]
    chosen = ends if piece.source in ("embedding.weight", "head.weight") else usual
    quantized = chosen in (Type.Q8_0, Type.Q4_0)
    return Type.F16 if quantized and tensors[piece.source].shape[-1] % BLOCK else chosen
