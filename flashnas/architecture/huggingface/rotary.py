"""Rotary positions of a configuration: the old keys (`rope_theta`, `rope_scaling`) and the new
(`rope_parameters`)."""

from __future__ import annotations

from typing import Any

from flashnas.architecture.huggingface.config_json import HfConfig
from flashnas.operators.spec import MAX_VALUE

TYPES = ("default", "linear", "llama3")


def rope_options(config: HfConfig) -> dict[str, Any]:
    """The rope options of an Attention; raises ArchitectureError naming positions that flashnas lacks."""
    key = "rope_scaling" if config.data.get("rope_scaling") else "rope_parameters"
    given = config.data.get(key) or {}
    if not isinstance(given, dict):
        raise config.error(key, f"must be a mapping; got {given!r}")
    if any(isinstance(value, dict) for value in given.values()):
        raise config.lacking(key, "rotary positions that differ between kinds of layers")

    def number(name: str, default: Any, least: float = 1.0) -> float:
        value = given.get(name, default)
        if type(value) not in (int, float) or not least <= value <= MAX_VALUE:
            place = name if name not in given and name in config.data else f"{key}.{name}"
            raise config.error(place, f"must be a number of at least {least:g}; got {value!r}")
        return float(value)

    options = {"rope_theta": number("rope_theta", config.get("rope_theta"))}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in TYPES:
        raise config.lacking(f"{key}.rope_type", f"rotary positions of type {kind!r}; it has"
                                                 f" {', '.join(TYPES)}")
    part = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part is not None and config.defaults["partial_rotary_factor"] is not None:
        options["rope_share"] = number("partial_rotary_factor", part, least=0.0)
    elif part not in (None, 1) and kind != "default":  # which does not read it in these models
        raise config.lacking(f"{key}.partial_rotary_factor", f"partly rotated heads ({part!r}) in"
                                                             f" {config.model_type}")
    if kind != "default":
        options["rope_factor"] = number("factor", None)
    if kind == "llama3":
        for name, value in (("low_freq_factor", 1.0), ("high_freq_factor", 4.0)):
            if number(name, None, least=0.0) != value:
                raise config.lacking(f"{key}.{name}",
                                     f"llama3 positions with {given[name]}; it has {value:g}")
        original = config.data.get("original_max_position_embeddings",
                                   given.get("original_max_position_embeddings",
                                             config.get("max_position_embeddings")))
        if type(original) is not int or not 1 <= original <= MAX_VALUE:
            raise config.error(f"{key}.original_max_position_embeddings",
                               f"must be a whole number of at least 1; got {original!r}")
        options["rope_original"] = original
    return options
