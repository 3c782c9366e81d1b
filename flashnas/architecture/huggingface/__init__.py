"""Hugging Face configurations: a model's `config.json` read as an Architecture, without transformers and without torch.

The network is the one that transformers' AutoModelForCausalLM builds, with its own defaults for absent keys. Of a model
that also sees (Qwen3.5) that is the language model; prediction heads that transformers leaves out (MTP) are left out.
Keys that change neither the network nor its sizes (dtype, quantisation, dropout, epsilons, start values) are not read.
A part that flashnas lacks is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig, read_json
from flashnas.architecture.huggingface.hybrid import mamba2, nemotron_h, qwen3_5, qwen3_5_text, qwen3_next, zamba2
from flashnas.architecture.huggingface.transformer import llama, mistral, qwen2, qwen3, smollm3
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.base.hints import one_of

MODEL_TYPES: dict[str, Callable[[HfConfig], Architecture]] = {
    "llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3, "smollm3": smollm3, "mamba2": mamba2,
    "nemotron_h": nemotron_h, "qwen3_5": qwen3_5, "qwen3_5_text": qwen3_5_text, "qwen3_next": qwen3_next,
    "zamba2": zamba2,
}
# what every model of these types has and flashnas lacks
LACKING = {
    "falcon_h1": "layers with attention and Mamba2 side by side",
    "falcon_mamba": "Mamba of the first version",
    "jamba": "Mamba of the first version",
    "mamba": "Mamba of the first version",
    "mixtral": "mixtures of experts",
    "qwen2_moe": "mixtures of experts",
    "qwen3_5_moe": "mixtures of experts",
    "qwen3_5_moe_text": "mixtures of experts",
    "qwen3_moe": "mixtures of experts",
    "zamba": "Mamba of the first version",
}


def architecture_from_hf(path: str | Path) -> Architecture:
    """Read a `config.json`, or a folder that holds one.

    Raises ArchitectureError with file and key for what cannot be read, contradicts itself, or has no part here.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    data = read_json(file)
    if "model_type" not in data:
        raise ArchitectureError(f"{file}: a Hugging Face config needs the key 'model_type'"
                                f" (one of {', '.join(MODEL_TYPES)})")
    kind = data["model_type"]
    if kind in list(LACKING):
        raise ArchitectureError(f"{file}:model_type: {kind} has {LACKING[kind]}, which flashnas lacks")
    if kind not in list(MODEL_TYPES):
        raise ArchitectureError(one_of(f"{file}:model_type", kind, MODEL_TYPES))
    try:
        return MODEL_TYPES[kind](HfConfig(kind, data, str(file)))
    except OperatorError as error:
        raise ArchitectureError(f"{file}: {error}") from None
