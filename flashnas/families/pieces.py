"""How each tensor of a file follows from a tensor of HybridLM, and back; one idea for all formats.

HybridLM has one projection where most formats have a matrix for each part. Many formats have one
epsilon in all norms; HybridLM has NORM_EPS in front of operators and `norm_eps` of each inside. A
norm does not change when its input and the root of its epsilon are scaled by the same number: a
file has the largest of these, and all that writes to the residual stream is multiplied by the root
of what it is larger by.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flashnas.architecture import Architecture
from flashnas.operators import OperatorSpec
from flashnas.operators.spec import NORM_EPS

if TYPE_CHECKING:  # torch loads when a tensor is written
    from torch import Tensor


# operator with every option explicit, width, names of the format -> tensors, without its norm
Parts = Callable[["OperatorSpec", int, Mapping[str, str]], "list[Piece]"]


def norm_eps(architecture: Architecture) -> float:
    """The epsilon of all norms in a file of the network."""
    return max(spec.norm_eps for spec in architecture.operators)


@dataclass(frozen=True)
class Piece:
    """One tensor of a file: scale x the chosen rows or columns of one tensor of HybridLM + offset.

    shape: of the written tensor; None: as it is. matrix: may have a type of few bits; all else
    stays in float32. decay: -exp of the tensor is written. source "": `offset` in `shape`, for a
    tensor that HybridLM lacks. experts: `*` in the source stands for the number of each of so many
    experts, whose tensors are stacked.
    """

    name: str
    source: str
    rows: Any = None
    columns: Tensor | None = None
    scale: float = 1.0
    offset: float | Tensor = 0.0
    shape: tuple[int, ...] | None = None
    matrix: bool = False
    decay: bool = False
    experts: int = 0

    @property
    def sources(self) -> list[str]:
        """The tensors of HybridLM that it is made of."""
        numbers = range(self.experts or 1)
        return [self.source.replace("*", str(n)) for n in numbers] if self.source else []

    @property
    def _place(self) -> Any:
        if self.columns is not None:
            return slice(None), self.columns
        return slice(None) if self.rows is None else self.rows

    @property
    def writes(self) -> bool:
        """True for what an operator adds to the residual stream."""
        return "out_proj." in self.source

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor to write; it shares no memory with those of HybridLM."""
        import torch

        if not self.source:
            return torch.zeros(self.shape or ()) + self.offset
        parts = [tensors[name][self._place] for name in self.sources]
        tensor = torch.stack(parts) if self.experts else parts[0]
        tensor = -tensor.exp() if self.decay else tensor * self.scale + self.offset
        return tensor.reshape(self.shape) if self.shape else tensor

    def back(self, written: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Put a written tensor into its place in `tensors`, which has the tensors of HybridLM."""
        value = (-written).log() if self.decay else (written - self.offset) / self.scale
        for name, part in zip(self.sources, value if self.experts else [value], strict=False):
            target = tensors[name]
            target[self._place] = part.reshape(target[self._place].shape)


def operator_pieces(spec: OperatorSpec, hidden: int, names: Container[str]) -> list[Piece]:
    """The tensors of an operator, with every option explicit, without its norm.

    Args:
        names: modules that the format has as a whole; of others it has a tensor for each part.

    Returns:
        Pieces named `PART.weight`, `MODULE.weight` or by the parameter. Those of one module follow
        each other. A matrix of all experts is one piece, stacked; names of the expert that every
        token passes begin with `shared_`.
    """
    pieces = []
    for tensor in spec.tensors(hidden):
        module, _, kind = tensor.name.rpartition(".")
        whole = Piece(tensor.name, tensor.name, matrix=tensor.is_matrix)
        module, _, number = module.partition(".")
        shared = ""
        if number:  # of an expert
            count = getattr(spec, "experts", 0)
            if 0 < int(number) < count:
                continue
            count, shared = (count, "") if number == "0" else (0, "shared_")
            module, source = shared + module, tensor.name.replace(".0.", ".*.")
            whole = replace(whole, name=f"{module}.{kind}", source=source, experts=count)
        if module in names or not tensor.parts:
            pieces.append(whole)
            continue
        for part, rows in tensor.places().items():
            pieces.append(replace(whole, name=f"{shared}{part}.{kind}", rows=rows))
    return pieces


def with_channels(spec: OperatorSpec, hidden: int, names: Container[str]) -> list[Piece]:
    """`operator_pieces` with filters of the shape [C, 1, K], as most formats have, in place of [C,
    K].
    """
    shape = -1, 1, getattr(spec, "conv_size", 0)
    return [
        replace(piece, shape=shape) if piece.source == "conv.weight" else piece
        for piece in operator_pieces(spec, hidden, names)
    ]


def rows_of(piece: Piece) -> Tensor:
    """The rows of a part of a tensor, one by one."""
    import torch

    return torch.arange(piece.rows.start, piece.rows.stop)


def with_gated_queries(spec: Any, parts: list[Piece]) -> list[Piece]:
    """The tensors of attention, in which each head's queries stand before its output gate."""
    import torch

    pieces = {piece.name: piece for piece in parts}
    gate, queries = pieces.pop("gate.weight"), pieces["q.weight"]
    heads = [rows_of(piece).unflatten(0, (spec.heads, -1)) for piece in (queries, gate)]
    pieces["q.weight"] = replace(queries, rows=torch.cat(heads, 1).flatten())
    return list(pieces.values())


def network_pieces(
    architecture: Architecture,
    top: tuple[str, str, str],
    names: Mapping[str, Mapping[str, str]],
    place: Callable[[int, OperatorSpec], tuple[str, str]],
    *,
    parts: Parts,
) -> list[Piece]:
    """The tensors of a network under a format's names; a tied head has none of its own. The file has
    `norm_eps` in all norms: what writes to the residual stream is scaled, and queries and keys that
    are normalised. A tied head is, too; the norm before takes it back.

    Args:
        architecture: with every option explicit.
        top: names of the embedding, of the final norm and of the head.
        names: kind -> module or part -> name; one without a name keeps its own. With `{expert}`,
            each expert has a tensor of its own.
        place: number and operator -> what stands in front of these names, and the name of its norm.
        parts: as `operator_pieces`.
    """
    scale = float((norm_eps(architecture) / NORM_EPS) ** 0.5)
    embedding, final_norm, head = (f"{name}.weight" for name in top)
    pieces = [
        Piece(embedding, "embedding.weight", scale=scale, matrix=True),
        Piece(final_norm, "final_norm.weight", scale=1 / scale if architecture.tied else 1.0),
    ]
    if not architecture.tied:
        pieces.append(Piece(head, "head.weight", matrix=True))
    for n, spec in enumerate(architecture.operators):
        layer, norm = place(n, spec)
        renamed = names.get(spec.kind, {})
        pieces.append(Piece(f"{norm}.weight", f"layers.{n}.norm.weight"))
        normalised = ("q", "k") if getattr(spec, "qk_norm", False) else ()
        for piece in parts(spec, architecture.hidden, renamed):
            part, dot, rest = piece.name.partition(".")
            piece = replace(
                piece,
                name=f"{layer}{renamed.get(part, part)}{dot}{rest}",
                source=piece.source and f"layers.{n}.mixer.{piece.source}",
                scale=scale if piece.writes or part in normalised else piece.scale,
            )
            if "{expert}" not in piece.name:
                pieces.append(piece)
                continue
            pieces += [
                replace(piece, name=piece.name.format(expert=e), source=source, experts=0)
                for e, source in enumerate(piece.sources)
            ]
    return pieces
