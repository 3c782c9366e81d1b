"""The architectures of llama.cpp that flashnas writes: what each can hold, and the keys of a
network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.architecture import Architecture
from flashnas.base.documents import read_yaml
from flashnas.families.family import Family, Gguf, families, filled, layers_of
from flashnas.families.fitting import Format, choose
from flashnas.families.gguf.pieces import operator_pieces, rope_piece
from flashnas.families.pieces import Piece, network_pieces
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet

if TYPE_CHECKING:
    from gguf import GGUFWriter

FACTS = read_yaml(Path(__file__).with_name("gguf.yaml"))
NAMES = FACTS["names"]


@dataclass(frozen=True)
class GgufFamily:
    """An architecture of llama.cpp: that of a family, with its facts on GGUF files."""

    family: Family
    facts: Gguf

    @cached_property
    def format(self) -> Format:
        """The rules of its loader."""
        needs = self.family.needs if self.facts.needs is None else self.facts.needs
        return Format(
            self.facts.name,
            {**self.family.demands, **self.facts.demands},
            needs=tuple(needs),
            pairs=self.family.pairs,
            max_meta_tokens=1,
            apart=tuple(self.facts.apart),
        )

    def pieces(self, architecture: Architecture) -> list[Piece]:
        """Every tensor of a file."""
        architecture = architecture.canonical()
        layers = layers_of(architecture.operators, self.family.pairs)
        layer_of = [n for n, layer in enumerate(layers) for _ in layer]

        def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
            norm = "attn_norm" if spec.mixes_tokens else self.facts.second_norm
            return f"blk.{layer_of[n]}.", f"blk.{layer_of[n]}.{norm}"

        attention = _first(architecture.operators, Attention)
        scaled = [rope_piece(attention)] if getattr(attention, "rope_original", 0) else []
        return scaled + network_pieces(
            architecture,
            ("token_embd", self.facts.output_norm, "output"),
            NAMES,
            place,
            parts=partial(operator_pieces, interleaved=self.facts.interleaved),
        )

    def write_keys(self, writer: GGUFWriter, architecture: Architecture) -> None:
        """All keys but those of the tokenizer."""
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        values = self.family.values_of(architecture) | self._by_layer(architecture)
        for key, value in filled({**FACTS["keys"], **self.facts.keys}, values).items():
            add.get(type(value), writer.add_array)(f"{self.facts.name}.{key}", value)

    def _by_layer(self, architecture: Architecture) -> dict[str, Any]:
        """Values of each layer, and of the rotary positions."""
        operators = architecture.canonical().operators
        layers = layers_of(operators, self.family.pairs)
        mixers = [layer[0] for layer in layers]
        attention = _first(operators, Attention)
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


FAMILIES: Mapping[str, GgufFamily] = {
    family.gguf.name: GgufFamily(family, family.gguf)
    for family in families().values()
    if family.gguf is not None
}


def with_output_gates(architecture: Architecture) -> Architecture:
    """The architecture in the form that llama.cpp has beside Gated DeltaNet: attention with norms
    of queries and keys has an output gate, too. One whose weights are zero halves the output, so
    that a network without gates has this form as well."""
    operators = architecture.operators
    if not _first(operators, GatedDeltaNet):
        return architecture
    gated = (
        replace(spec, out_gate=True) if isinstance(spec, Attention) and spec.qk_norm else spec
        for spec in operators
    )
    return replace(architecture, operators=tuple(gated))


def family_of(architecture: Architecture) -> GgufFamily:
    """The first family that holds the architecture; raises ExportError with the rule that none
    meets.
    """
    formats = [family.format for family in FAMILIES.values()]
    return FAMILIES[choose(architecture, formats, "llama.cpp").name]


def _first(operators: Sequence[OperatorSpec], of: type[OperatorSpec]) -> Any:
    return next((spec for spec in operators if isinstance(spec, of)), None)
