"""Hugging Face configurations: a model's `config.json` read as an Architecture, without
transformers and torch.

The network is the one that transformers' AutoModelForCausalLM builds, with its own defaults for
absent keys. Of a model that also reads images only the language model is read. Prediction heads
(MTP), and keys that change neither the network nor its sizes, are left out. A part that flashnas
lacks is an error that names it, or, where it hardly changes time and size, a warning that does.
"""

from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface.config_json import HfConfig, defaults, read_json
from flashnas.architecture.huggingface.hybrid import READERS
from flashnas.architecture.huggingface.transformer import TAKEN, transformer
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.base.text import one_of, warn_in_a_line

INSIDE = ("gemma3", "qwen3_5", "qwen3_5_moe")  # of which text_config is the language model
# what every model of these types has and no operator of flashnas computes
LACKING = {
    "falcon_h1": "attention and Mamba2 side by side",
    "falcon_mamba": "Mamba with normalised time steps, B and C",
    "hymba": "key/value caches that several layers share",
    "jamba": "Mamba with normalised time steps, B and C",
    "kimi_linear": "multi-head latent attention",
    "olmo_hybrid": "norms after attention and after feed-forward networks",
    "zamba2": "a transformer block that layers share",
    "zamba": "Mamba of several heads and a transformer block that layers share",
}


def architecture_from_hf(path: str | Path, *, whole: bool = False) -> Architecture:
    """Read a `config.json`, or a folder that holds one; ArchitectureError with file and key. whole:
    as `architecture_of_config` takes it."""
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    return architecture_of_config(read_json(file), str(file), whole=whole)


def architecture_of_config(data: dict[str, Any], file: str, *, whole: bool = False) -> Architecture:
    """The content of a `config.json`; file: names it in errors. whole: refuse a kind of model of
    which the sizes alone are read."""
    if "model_type" not in data:
        raise ArchitectureError(
            f"{file}: a Hugging Face config needs the key 'model_type'"
            f" (one of {', '.join(defaults())})"
        )
    kind = stated = data["model_type"]
    place = f"{file}:model_type"
    if kind in list(LACKING):  # a list accepts any value, also one that is not hashable
        raise ArchitectureError(f"{place}: {kind} has {LACKING[kind]}, which flashnas lacks")
    if kind not in list(defaults()):
        raise ArchitectureError(one_of(place, kind, defaults()))
    if whole and kind in TAKEN:
        raise ArchitectureError(
            f"{place}: of {kind} the sizes alone are read: it can be estimated, not converted or exported"
        )
    inside = ""
    if kind in INSIDE:
        data, inside, kind = data.get("text_config") or {}, "text_config.", f"{kind}_text"
        if not isinstance(data, dict):
            raise ArchitectureError(f"{file}:text_config: must be a mapping; got {data!r}")
    config = HfConfig(kind, data, file, inside)
    try:
        architecture = READERS.get(kind, transformer)(config)
    except OperatorError as error:
        raise ArchitectureError(f"{file}: {error}") from None
    if config.deviations:
        warn_in_a_line(
            f"{place}: {stated} is read as an approximation: {'; '.join(config.deviations)}"
        )
    return architecture
