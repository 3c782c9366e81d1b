"""Networks written for other programs. EXPORTS: the formats, of which nothing is loaded here."""

from typing import Any

from flashnas.base.errors import ExportError
from flashnas.base.registry import Registry

EXPORTS: Registry[Any] = Registry(
    "export format",
    "flashnas.exports",
    {
        "hf": "flashnas.exporting.transformers.write:EXPORTER",
        "gguf": "flashnas.exporting.gguf:EXPORTER",
    },
    error=ExportError,
    base="flashnas.exporting.exporter:Exporter",
    summaries={
        "hf": "For transformers, vLLM, SGLang and MLX, or with flashnas where no family holds the network",
        "gguf": "For llama.cpp: one GGUF file",
    },
)
