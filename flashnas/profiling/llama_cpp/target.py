"""Networks timed in llama.cpp, from files with random weights."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError, DeviceError, ExportError
from flashnas.base.settings import option
from flashnas.operators.attention.spec import Attention
from flashnas.profiling.child_process import RuntimeFailure
from flashnas.profiling.llama_cpp.child import CACHE_TYPES, describe, time_requests
from flashnas.profiling.program import Program, Times

# -> dtype of rows
WEIGHTS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16",
           **{name: name for name in ("q8_0", "q6_k", "q4_0", "q4_k")}}
LIBRARIES = ("xllamacpp", "gguf")
CACHE_BLOCK = 32  # of a key or value that q8_0 holds together


@dataclass(frozen=True, kw_only=True)
class LlamaCpp(Program, where="llama_cpp"):
    """llama.cpp. It computes attention in one pass unless it is told otherwise; on a CPU that can double the
    time of an attention layer."""

    name = "llama.cpp"
    piece_tokens = 256
    build_facts = ("build", "system")
    stated = ("threads", "weights", "flash_attention", "cache_type")

    weights: str = option("q8_0", "type of the weights", choices=WEIGHTS)
    flash_attention: bool = option(False, "compute attention in one pass")
    cache_type: str = option("f16", "type of keys and values")  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_type not in CACHE_TYPES:
            self.wrong("cache_type", f"must be one of {', '.join(CACHE_TYPES)}; got {self.cache_type!r};"
                                     " types of fewer bits gave NaN in released hybrids"
                                     " (github.com/ikawrakow/ik_llama.cpp/pull/1548)")
        if self.cache_type == "q8_0" and not self.flash_attention:
            self.wrong("cache_type", "q8_0 needs --flash-attention: llama.cpp keeps values in 8 bits for it"
                                     " only")
        lacking = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if lacking:
            raise ConfigError(f"llama.cpp is run through {' and '.join(LIBRARIES)}; {' and '.join(lacking)}"
                              f" {'is' if len(lacking) == 1 else 'are'} not installed: pip install"
                              " 'flashnas[llama-cpp]'")

    @property
    def dtype_name(self) -> str:
        return WEIGHTS[self.weights]

    @property
    def stack(self) -> str:
        attention = "flash" if self.flash_attention else "plain"
        return (f"llama.cpp-xllamacpp-{version('xllamacpp')}-{self.threads}t-{self.weights}"
                f"-{attention}-attention-{self.cache_type}-cache")

    def versions(self) -> dict[str, str]:
        return {"version": version("xllamacpp"), **_build()}

    def check_holds(self, architecture: Architecture) -> None:
        from flashnas.formats.gguf.families import family_of
        from flashnas.formats.gguf.file import check_rows

        family_of(architecture)
        check_rows(architecture, self.weights)
        for number, spec in enumerate(architecture.operators if self.cache_type == "q8_0" else ()):
            if isinstance(spec, Attention) and spec.head_dim % CACHE_BLOCK:
                raise ExportError(f"llama.cpp keeps keys and values in q8_0 in blocks of {CACHE_BLOCK}, but"
                                  f" the heads of operator {number}, {spec.kind!r}, have {spec.head_dim};"
                                  " take --cache-type f16")

    def making_bytes(self, architecture: Architecture) -> int:
        """In float32: the embedding as it is drawn and with the rows of added tokens, and each operator that
        differs from the others once."""
        tables = architecture.vocab * architecture.hidden * (1 if architecture.tied else 2)
        operators = sum(spec.params(architecture.hidden) for spec in set(architecture.canonical().operators))
        return 4 * (2 * tables + operators)

    def run(self, architecture: Architecture, prompts: Sequence[int], contexts: Sequence[int],
            steps: int) -> Times:
        from flashnas.formats.gguf.file import write_random_file

        with tempfile.TemporaryDirectory(prefix="flashnas-") as folder:
            file = Path(folder) / "model.gguf"
            write_random_file(file, architecture, self.weights)
            return time_requests(file, prompts=prompts, contexts=contexts, steps=steps,
                                 vocab=architecture.vocab, threads=self.threads,
                                 flash_attention=self.flash_attention, cache_type=self.cache_type)


@functools.cache
def _build() -> dict[str, str]:
    try:
        facts = describe()
    except RuntimeFailure as error:
        raise DeviceError(str(error)) from None
    return {"build": facts["build"], "system": facts["system"].strip(" |")}
