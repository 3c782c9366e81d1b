"""`--to gguf`: one file for llama.cpp and the programs built on it, checked there in a process of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import torch
from torch import Tensor

from flashnas.base.errors import ExportError
from flashnas.base.hints import one_of
from flashnas.export.exporter import Exporter, Written
from flashnas.export.gguf.families import family_of
from flashnas.export.gguf.parity import GENERATED, check_parity, take_over
from flashnas.export.gguf.pieces import Piece
from flashnas.export.gguf.vocabulary import Vocabulary, vocabulary
from flashnas.export.source import Source

Type = gguf.GGMLQuantizationType
# of a weight, and of the embedding and the head: these stay at 8 bits in a file of 4, as in files of llama.cpp itself
TYPES: Mapping[str, tuple[Type, Type, gguf.LlamaFileType]] = MappingProxyType({
    "f32": (Type.F32, Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Type.Q4_0, Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q4_0),
})
BLOCK = 32  # weights of a row that a quantized type holds together
DEFAULT_TYPE = "f16"

LOADING = """\
    llama-cli -m {name}/model.gguf -p 'The state of the union'
    llama-server -m {name}/model.gguf

Any program built on llama.cpp reads the file; flashnas is not needed.
"""


class GgufExporter(Exporter):
    """One GGUF file with weights and tokenizer, for the architectures of llama.cpp in FAMILIES."""

    title = "llama.cpp and the programs built on it, without flashnas"
    loading = LOADING
    library = "gguf"
    dtypes = ("float32",)
    own_tokenizer = True
    options = MappingProxyType({"type": f"type of the weights: {', '.join(TYPES)} (default {DEFAULT_TYPE})"})

    @torch.no_grad()
    def write(self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str) -> Written:
        """See Exporter. The source's network gets the weights as they were written, in float32."""
        name = options.get("type", DEFAULT_TYPE)
        if not isinstance(name, str) or name not in TYPES:
            raise ExportError(one_of("--type", name, TYPES))
        network = source.network.float()
        architecture = network.architecture
        family = family_of(architecture)
        words = vocabulary(source.tokenizer, architecture.vocab, architecture.meta_tokens)
        file = folder / "model.gguf"
        writer = gguf.GGUFWriter(file, family.format.name)
        writer.add_name(architecture.hash)
        writer.add_description(f"flashnas {architecture.notation}")
        writer.add_file_type(TYPES[name][2])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        family.write_keys(writer, architecture)
        words.write_keys(writer)
        tensors = _with_added_rows(network.state_dict(), words)
        wide = 0
        for piece in family.pieces(architecture):
            type_ = _type_of(piece, tensors, name)
            wide += type_ is Type.F16 and name.startswith("q")
            data = gguf.quants.quantize(np.ascontiguousarray(piece.of(tensors).numpy()), type_)
            writer.add_tensor(piece.name, data, raw_dtype=type_)
            rounded = gguf.quants.dequantize(data, type_).astype(np.float32)
            take_over(network, piece, torch.from_numpy(rounded))
        _write(writer, file)
        found, equal = check_parity(file, network, words, source.tokenizer, name)
        notes = [f"llama.cpp runs it as {family.format.name}; {equal} of {GENERATED} greedy tokens are equal"
                 f" (xllamacpp {version('xllamacpp')})"]
        if wide:
            notes.append(f"{wide} matrices are in f16, because their rows are not multiples of {BLOCK}")
        if words.first is not None:
            notes.append(f"the meta token is {words.tokens[words.first]!r}, which llama.cpp puts in front of a text")
        return Written(found, tuple(notes), dtype=name)


EXPORTER = GgufExporter()


def _write(writer: gguf.GGUFWriter, file: Path) -> None:
    """Write the file to the disk. Raises OSError with the system's reason."""
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except OSError as error:
        if error.errno is not None:
            raise
        with open(file, "ab") as stream:  # numpy says only how much it wrote; a further write gives the reason
            stream.write(bytes(1 << 20))
        raise OSError(errno.EIO, f"the file is incomplete: {error}", str(file)) from None
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def _with_added_rows(tensors: dict[str, Tensor], words: Vocabulary) -> dict[str, Tensor]:
    """Rows for the added tokens behind the embedding and the head: the meta token's, or zeros."""
    if not words.added:
        return tensors
    embedding = tensors["embedding.weight"]
    rows = [embedding, *([tensors["meta_tokens"]] if "meta_tokens" in tensors else [])]
    missing = len(words.tokens) - sum(map(len, rows))
    found = {**tensors, "embedding.weight": torch.cat([*rows, embedding.new_zeros(missing, embedding.shape[1])])}
    if "head.weight" in tensors:
        head = tensors["head.weight"]
        found["head.weight"] = torch.cat([head, head.new_zeros(words.added, head.shape[1])])
    return found


def _type_of(piece: Piece, tensors: Mapping[str, Tensor], name: str) -> Type:
    if piece.small:
        return Type.F32
    usual, ends, _ = TYPES[name]
    chosen = ends if piece.source in ("embedding.weight", "head.weight") else usual
    quantized = chosen in (Type.Q8_0, Type.Q4_0)
    return Type.F16 if quantized and tensors[piece.source].shape[-1] % BLOCK else chosen
