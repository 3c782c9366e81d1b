"""A network's tensors as a GGUF file, of trained or of random weights."""

import ctypes
import errno
import functools
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.families.gguf.families import architecture_name, file_pieces, write_keys
from flashnas.families.gguf.vocabulary import Vocabulary, vocabulary
from flashnas.families.pieces import Piece
from flashnas.network.model import Block

Type = gguf.GGMLQuantizationType
FileType = gguf.LlamaFileType
# of a weight, and of the embedding and the head: these have more bits in a file of 4, as in files
# of llama.cpp itself
TYPES: Mapping[str, tuple[Type, Type, FileType]] = MappingProxyType(
    {
        "f32": (Type.F32, Type.F32, FileType.ALL_F32),
        "f16": (Type.F16, Type.F16, FileType.MOSTLY_F16),
        "bf16": (Type.BF16, Type.BF16, FileType.MOSTLY_BF16),
        "q8_0": (Type.Q8_0, Type.Q8_0, FileType.MOSTLY_Q8_0),
        "q6_k": (Type.Q6_K, Type.Q6_K, FileType.MOSTLY_Q6_K),
        "q4_0": (Type.Q4_0, Type.Q8_0, FileType.MOSTLY_Q4_0),
        "q4_k": (Type.Q4_K, Type.Q6_K, FileType.MOSTLY_Q4_K_S),
    }
)
BY_LLAMA_CPP = Type.Q4_K, Type.Q6_K  # the package gguf reads these types and does not write them
BLOCK = 32  # weights of a row that q8_0 and q4_0 hold together
SCALE = 0.02  # of random embeddings


def write_file(
    file: Path,
    architecture: Architecture,
    words: Vocabulary,
    type_name: str,
    tensors: Mapping[str, Tensor],
    taken: Callable[[Piece, Tensor], None] | None = None,
) -> int:
    """Write a network as llama.cpp reads it.

    Args:
        words: tokens of the file; those that were added get rows behind the embedding and the head.
        type_name: of the weights, one of TYPES.
        tensors: as HybridLM has them. Tensors that are the same object are converted once.
        taken: called with each piece and what a reader of the file gets for it, in float32.

    Returns:
        The number of matrices in f16 because their rows are not multiples of BLOCK.

    Raises:
        ExportError: no architecture of llama.cpp holds the network, or the type does not fit its
            rows.
        OSError: the file cannot be written; with the system's reason.
    """
    name = architecture_name(architecture)
    check_rows(architecture, type_name)
    writer = gguf.GGUFWriter(file, name)
    writer.add_name(architecture.hash)
    writer.add_description(f"flashnas {architecture.notation}")
    writer.add_file_type(TYPES[type_name][2])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_keys(writer, name, architecture)
    words.write_keys(writer)
    tensors = _with_added_rows(tensors, words)
    wide = 0
    converted: dict[tuple[int, str], np.ndarray] = {}
    for piece in file_pieces(name, architecture):
        type_ = _type_of(piece, tensors, type_name)
        wide += type_ is Type.F16 and type_name.startswith("q")
        key = id(tensors.get((piece.sources or [""])[0])), piece.name.split(".", 2)[-1]
        if key not in converted:
            converted[key] = _quantized(np.ascontiguousarray(piece.of(tensors).numpy()), type_)
        writer.add_tensor(piece.name, converted[key], raw_dtype=type_)
        if taken is not None:
            taken(
                piece,
                torch.from_numpy(gguf.quants.dequantize(converted[key], type_).astype(np.float32)),
            )
    _write(writer, file)
    return wide


def check_rows(architecture: Architecture, type_name: str) -> None:
    """Raises ExportError unless the rows of all matrices are whole blocks of a type of 256 weights:
    most would stay in f16 otherwise, as single ones do with blocks of BLOCK."""
    block = max(gguf.GGML_QUANT_SIZES[type_][0] for type_ in TYPES[type_name][:2])
    for number, spec in enumerate(architecture.canonical().operators if block > BLOCK else ()):
        for tensor in spec.tensors(architecture.hidden):
            if tensor.is_matrix and tensor.shape[-1] % block:
                raise ExportError(
                    f"{type_name} holds {block} weights of a row in a block, but the rows of"
                    f" {tensor.name!r} of operator {number}, {spec.kind!r}, have {tensor.shape[-1]};"
                    f" take sizes that are multiples of {block}, or q8_0"
                )


@torch.no_grad()
def write_random_file(file: Path, architecture: Architecture, type_name: str) -> None:
    """A file with random weights, for timings; equal operators share theirs. Raises as `write_file`
    does.
    """
    architecture = architecture.canonical()
    shape = architecture.vocab, architecture.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {
            spec: Block(spec, architecture.hidden).state_dict()
            for spec in dict.fromkeys(architecture.operators)
        }
        tensors = {
            f"layers.{n}.{name}": tensor
            for n, spec in enumerate(architecture.operators)
            for name, tensor in blocks[spec].items()
        }
        tensors |= {
            "embedding.weight": SCALE * torch.randn(shape),
            "final_norm.weight": torch.ones(shape[1]),
        }
        if not architecture.tied:
            tensors["head.weight"] = SCALE * torch.randn(shape)
    write_file(
        file,
        architecture,
        vocabulary(None, architecture.vocab),
        type_name,
        tensors,
    )


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
    """The tensors with rows of zeros for added tokens."""
    extended = dict(tensors)
    for name in ("embedding.weight", "head.weight") if words.added else ():
        if (matrix := tensors.get(name)) is not None:
            rows = torch.cat([matrix, matrix.new_zeros(words.added, matrix.shape[1])])
            extended[name] = rows
    return extended


def _quantized(matrix: np.ndarray, type_: Type) -> np.ndarray:
    """The bytes of a matrix in a type, [rows, bytes], or a tensor of any shape in a type without
    blocks.
    """
    if type_ not in BY_LLAMA_CPP:
        return gguf.quants.quantize(matrix, type_)
    block, size = gguf.GGML_QUANT_SIZES[type_]
    *rows, width = matrix.shape
    written = np.empty((*rows, width // block * size), np.uint8)
    count = matrix.size // width
    _quantize_chunk()(int(type_), matrix.ctypes.data, written.ctypes.data, 0, count, width, None)
    return written


@functools.cache
def _quantize_chunk() -> Any:
    """ggml_quantize_chunk(type, from, to, first, rows, width, importance) of the installed
    llama.cpp.
    """
    from xllamacpp import xllamacpp

    try:
        function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except AttributeError:
        raise ExportError(
            f"xllamacpp {version('xllamacpp')} does not show ggml_quantize_chunk, which writes"
            " q4_k and q6_k; take q8_0"
        ) from None
    function.argtypes = [
        ctypes.c_int,
        *2 * [ctypes.c_void_p],
        *3 * [ctypes.c_int64],
        ctypes.c_void_p,
    ]
    function.restype = ctypes.c_size_t
    return function


def _type_of(piece: Piece, tensors: Mapping[str, Tensor], name: str) -> Type:
    if not piece.matrix:
        return Type.F32
    usual, ends, _ = TYPES[name]
    chosen = ends if piece.source in ("embedding.weight", "head.weight") else usual
    narrow = gguf.GGML_QUANT_SIZES[chosen][0] == BLOCK
    return Type.F16 if narrow and tensors[piece.sources[0]].shape[-1] % BLOCK else chosen
