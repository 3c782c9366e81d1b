"""`--to gguf`: one file for llama.cpp and the programs built on it, checked there in a process of its own."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import torch

from flashnas.base.errors import ExportError
from flashnas.base.hints import one_of
from flashnas.export.exporter import Exporter, Written
from flashnas.export.gguf.parity import GENERATED, check_parity, take_over
from flashnas.export.source import Source
from flashnas.formats.gguf.families import family_of
from flashnas.formats.gguf.file import BLOCK, TYPES, write_file
from flashnas.formats.gguf.vocabulary import vocabulary

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
        words = vocabulary(source.tokenizer, architecture.vocab, architecture.meta_tokens)
        file = folder / "model.gguf"
        wide = write_file(file, architecture, words, name, network.state_dict(),
                          lambda piece, written: take_over(network, piece, written))
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
        found, equal = check_parity(file, network, words, source.tokenizer, name)
        notes = [f"llama.cpp runs it as {family_of(architecture).format.name}; {equal} of {GENERATED} greedy tokens are"
                 f" equal (xllamacpp {version('xllamacpp')})"]
        if wide:
            notes.append(f"{wide} matrices are in f16, because their rows are not multiples of {BLOCK}")
        if words.first is not None:
            notes.append(f"the meta token is {words.tokens[words.first]!r}, which llama.cpp puts in front of a text")
        return Written(found, tuple(notes), dtype=name)


EXPORTER = GgufExporter()
