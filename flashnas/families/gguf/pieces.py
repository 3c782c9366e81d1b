"""The tensors of a GGUF file, in the order and under the names of llama.cpp."""

from collections.abc import Container
from dataclasses import replace

from flashnas.families import pieces
from flashnas.families.pieces import Piece, rows_of, with_gated_queries
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.mamba2.spec import Mamba2

ROUTER = "router.weight"
ROPE = "rope_freqs.weight"


def rope_piece(spec: Attention) -> Piece:
    """The numbers by which llama.cpp divides the frequencies of rotary positions."""
    from flashnas.operators.parts import Rotary

    rotary = Rotary(spec.rotary_dim, spec.rope_theta, spec.rope_factor, spec.rope_original)
    factors = rotary._replace(factor=1).frequencies() / rotary.frequencies()
    return Piece(ROPE, "", offset=factors.float())


def operator_pieces(
    spec: OperatorSpec, hidden: int, names: Container[str], *, interleaved: bool
) -> list[Piece]:
    """The pieces of an operator, with every option explicit, without its norm. interleaved: rotary
    positions turn neighbouring channels of a head, not its two halves."""
    if isinstance(spec, GatedDeltaNet):
        return _gated_delta_net(spec, hidden)
    parts = pieces.operator_pieces(spec, hidden, names)
    if isinstance(spec, Attention):
        parts = _interleaved(spec, parts) if interleaved else parts
        return with_gated_queries(spec, parts) if spec.out_gate else parts
    if not isinstance(spec, Mamba2):  # scores of experts are not rounded
        return [replace(part, matrix=part.matrix and part.source != ROUTER) for part in parts]
    heads, groups = spec.head_count(hidden), spec.groups
    shapes = {
        "A_log": (heads, 1),
        "D": (heads, 1),
        "norm.weight": (groups, spec.inner(hidden) // groups),
    }
    parts = [
        replace(piece, shape=shapes.get(piece.name), decay=piece.name == "A_log") for piece in parts
    ]
    if not spec.conv_bias:  # llama.cpp needs one
        channels = spec.named_tensors(hidden)["conv.weight"].shape[:1]
        parts.insert(2, Piece("conv.bias", "", shape=channels))
    return parts


def _interleaved(spec: Attention, parts: list[Piece]) -> list[Piece]:
    """Rows of queries and keys whose rotary positions turn neighbouring channels of a head."""
    import torch

    turned, order = spec.rotary_dim, torch.arange(spec.head_dim)
    order[:turned] = order[:turned].unflatten(0, (2, -1)).T.flatten()
    return [
        replace(part, rows=rows_of(part).unflatten(0, (-1, spec.head_dim))[:, order].flatten())
        if part.name.split(".")[0] in ("q", "k")
        else part
        for part in parts
    ]


def _gated_delta_net(spec: GatedDeltaNet, hidden: int) -> list[Piece]:
    """Neighbouring value heads of llama.cpp read different key heads; those of HybridLM read the
    same.
    """
    import torch

    (_, _, heads), dim = spec.sizes(hidden), spec.head_dim
    places = spec.named_tensors(hidden)["in_proj.weight"].places()
    v, z, beta, a = (places[part].start for part in ("v", "z", "beta", "a"))
    order = torch.arange(heads).unflatten(0, (spec.k_heads, spec.expand_v)).T.flatten()
    # channels of the value heads in that order
    wide = (order[:, None] * dim + torch.arange(dim)).flatten()
    qkv = torch.cat([torch.arange(v), v + wide])
    return [
        Piece("attn_qkv.weight", "in_proj.weight", rows=qkv, matrix=True),
        Piece("attn_gate.weight", "in_proj.weight", rows=z + wide, matrix=True),
        Piece("ssm_beta.weight", "in_proj.weight", rows=beta + order, matrix=True),
        Piece("ssm_alpha.weight", "in_proj.weight", rows=a + order, matrix=True),
        Piece("ssm_conv1d.weight", "conv.weight", rows=qkv),
        Piece("ssm_dt.bias", "dt_bias", rows=order),
        Piece("ssm_a", "A_log", rows=order, decay=True),
        Piece("ssm_norm.weight", "norm.weight"),
        Piece("ssm_out.weight", "out_proj.weight", columns=wide, matrix=True),
    ]
