"""The architectures of llama.cpp that flashnas writes: the tensors and keys of a network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.architecture import Architecture
from flashnas.base.documents import read_yaml
from flashnas.families.family import Family, Gguf, Weights, families, filled, layers_of
from flashnas.families.fitting import choose
from flashnas.families.gguf.pieces import operator_pieces, rope_piece
from flashnas.families.pieces import Piece
from flashnas.operators.attention.spec import Attention
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet

if TYPE_CHECKING:
    from gguf import GGUFWriter

FACTS = read_yaml(Path(__file__).with_name("gguf.yaml"))
NAMES = FACTS["names"]
FAMILIES: Mapping[str, tuple[Family, Gguf]] = {
    family.gguf.name: (family, family.gguf)
    for family in families().values()
    if family.gguf is not None
}


def architecture_name(architecture: Architecture) -> str:
    """What llama.cpp calls the first of its architectures that holds a network; raises ExportError
    with the rule that none meets."""
    formats = {name: family.gguf_format for name, (family, _) in FAMILIES.items()}
    return choose(architecture, formats, "llama.cpp")


def file_pieces(name: str, architecture: Architecture) -> list[Piece]:
    """Every tensor of a file of that architecture of llama.cpp."""
    family, facts = FAMILIES[name]
    weights = Weights(
        top=["token_embd", facts.output_norm, "output"],
        layer="blk.{layer}.",
        norms=["attn_norm", facts.second_norm],
        names=NAMES,
    )
    parts = partial(operator_pieces, interleaved=facts.interleaved)
    attention = _attention_of(architecture)
    scaled = [rope_piece(attention)] if attention.rope_original else []
    return scaled + family.pieces(architecture, weights, parts)


def write_keys(writer: GGUFWriter, name: str, architecture: Architecture) -> None:
    """All keys but those of the tokenizer."""
    family, facts = FAMILIES[name]
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    values = family.values_of(architecture) | _by_layer(family, architecture)
    for key, value in filled({**FACTS["keys"], **facts.keys}, values).items():
        add.get(type(value), writer.add_array)(f"{name}.{key}", value)


def _by_layer(family: Family, architecture: Architecture) -> dict[str, Any]:
    """Values of each layer, and of the rotary positions."""
    layers = layers_of(architecture.canonical().operators, family.pairs)
    mixers = [layer[0] for layer in layers]
    attention = _attention_of(architecture)
    turned = attention.rotary_dim
    return {
        "widths": [getattr(layer[-1], "intermediate", 0) for layer in layers],
        # a layer with 0 key heads is a recurrent one; query heads must not be 0 in any layer
        "heads": [(m if isinstance(m, Attention) else attention).heads for m in mixers],
        "kv_heads": [getattr(mixer, "kv_heads", 0) for mixer in mixers],
        "recurrent": [isinstance(mixer, GatedDeltaNet) for mixer in mixers],
        "a.rotates": bool(turned),
        "a.turned": turned or attention.head_dim,
        # channel pairs that read each of three positions in turn; those of a text are equal
        "a.sections": [*((turned // 2 + 2 - n) // 3 for n in range(3)), 0],
    }


def _attention_of(architecture: Architecture) -> Attention:
    """Some attention, which all these architectures have."""
    operators = architecture.canonical().operators
    return next(spec for spec in operators if isinstance(spec, Attention))
