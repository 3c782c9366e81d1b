"""Reading of a `config.json`: typed look-up with transformers' defaults, and errors that name file
and key."""

import functools
from pathlib import Path
from typing import Any

from flashnas.architecture.notation import MAX_OPERATORS
from flashnas.base import foreign
from flashnas.base.documents import read_yaml
from flashnas.base.errors import ArchitectureError
from flashnas.base.text import shown
from flashnas.operators.spec import MAX_VALUE


def read_json(path: Path) -> dict[str, Any]:
    """The mapping at the top of a JSON file; raises ArchitectureError with the file, and the line
    if it has one."""
    data = foreign.read_json(path, ArchitectureError)
    if not isinstance(data, dict):
        raise ArchitectureError(
            f"{path}: the top level must be a mapping; got {type(data).__name__}"
        )
    return data


@functools.cache
def defaults() -> dict[str, dict[str, Any]]:
    """The defaults of transformers for each key that is read, by model type."""
    types = dict(read_yaml(Path(__file__).with_name("defaults.yaml")))
    del types["shared"]
    return types


# keys with two names, as transformers reads them: model type -> other name -> name
RENAMED = {
    "granitemoehybrid": {"layers_block_type": "layer_types"},
    "lfm2": {"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"},
    "lfm2_moe": {"tie_embedding": "tie_word_embeddings"},
    "mixtral": {"num_experts": "num_local_experts"},
    "nemotron_h": {
        "layers_block_type": "layer_types",
        "mamba_n_groups": "n_groups",
        "mamba_d_conv": "conv_kernel",
        "mamba_conv_bias": "use_conv_bias",
        "mamba_dt_limit": "time_step_limit",
    },
    **{
        kind: {"num_local_experts": "num_experts"}
        for kind in ("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text")
    },
}


class HfConfig:
    """The configuration of one model type. Absent keys have transformers' default.

    Attributes:
        deviations: what the Architecture that is read does otherwise, in words.
    """

    def __init__(self, model_type: str, data: dict[str, Any], path: str, inside: str = "") -> None:
        self.model_type = model_type
        names = RENAMED.get(model_type, {})
        self.data = data | {names[key]: data[key] for key in data if key in names}
        self.path = path
        self.inside = inside
        self.defaults = defaults()[model_type]
        self.deviations: list[str] = []

    def error(self, key: str, message: str) -> ArchitectureError:
        """An error at the file and key, for the caller to raise."""
        return ArchitectureError(f"{self.path}:{self.inside}{key}: {message}")

    def lacking(self, key: str, part: str) -> ArchitectureError:
        """The error for a part that flashnas does not have."""
        return self.error(key, f"flashnas lacks {part}")

    def first(self, *keys: str) -> str:
        """The first of these keys that the model type has, an empty text where it has none."""
        return next((key for key in keys if key in self.defaults), "")

    def get(self, key: str) -> Any:
        """The value of a key, or transformers' default."""
        return self.data.get(key, self.defaults[key])

    def integer(self, key: str, *, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self.get(key)
        if type(value) is not int or not least <= value <= MAX_VALUE:
            raise self.error(key, f"must be a whole number of at least {least}; got {shown(value)}")
        return value

    def integer_or_none(self, key: str) -> int | None:
        """A whole number, or None for `null`."""
        return None if self.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        value = self.get(key)
        if type(value) not in (int, float) or not 0 <= value <= MAX_VALUE:
            raise self.error(key, f"must be a number of at least 0; got {shown(value)}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; false for a key that the model type does not have."""
        value = self.get(key) if self.first(key) else False
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false; got {shown(value)}")
        return value

    def require(self, key: str, value: Any, part: str) -> None:
        """Raise ArchitectureError that names the part that flashnas lacks, unless the key has that
        value.
        """
        if self.get(key) != value:
            raise self.lacking(key, f"{part} {shown(self.get(key))}; it has {shown(value)}")

    def layers(self) -> int:
        """`num_hidden_layers`, within what an Architecture holds."""
        count = self.integer("num_hidden_layers")
        if count > MAX_OPERATORS:
            raise self.error("num_hidden_layers", f"must be at most {MAX_OPERATORS}; got {count}")
        return count

    def listed(self, key: str, kind: type, length: int | None = None) -> list[Any] | None:
        """A list of `kind`, one entry per layer if `length` is given. None where the key is absent
        or `null`."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(entry) is kind for entry in value):
            raise self.error(
                key,
                f"must be a list of {'text' if kind is str else 'whole numbers'}; got"
                f" {shown(value)}",
            )
        if length is not None and len(value) != length:
            raise self.error(
                key, f"must have one entry for each of the {length} layers; got {len(value)}"
            )
        return value
