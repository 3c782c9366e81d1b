"""Weights of HybridLM under the names of the family, and back.

The family has separate matrices where a layer of HybridLM has one projection: rows of `in_proj` go to q, k, v, b
(`gla`), to q, k, v (`self_attn`) or to gate and up (`ffn`). Mamba2's z | x, B, C | dt is one matrix in both. Filters of
the family have the shape [C, 1, K].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.delta_net.spec import DeltaNet
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.mamba2.spec import Mamba2


@dataclass(frozen=True)
class Piece:
    """A tensor of HybridLM and the tensors of the family that its rows make up."""

    hybrid: str
    family: tuple[tuple[str, int], ...]  # name, rows
    filters: bool = False  # those of the family have a dimension of 1 inside


def pieces(architecture: Architecture) -> list[Piece]:
    """Every tensor of an architecture that the family can hold."""
    hidden, vocab = architecture.hidden, architecture.vocab
    found = [Piece("embedding.weight", (("model.embed_tokens.weight", vocab),)),
             Piece("final_norm.weight", (("model.final_layernorm.weight", hidden),))]
    if architecture.meta_tokens:
        found.append(Piece("meta_tokens", (("model.memory_tokens", architecture.meta_tokens),)))
    if not architecture.tied:
        found.append(Piece("head.weight", (("lm_head.weight", vocab),)))
    for n, spec in enumerate(architecture.canonical().operators):
        for piece in _of_operator(spec, hidden):
            family = tuple((f"model.layers.{n}.{name}", rows) for name, rows in piece.family)
            found.append(Piece(f"layers.{n}.{piece.hybrid}", family, piece.filters))
    return found


def _of_operator(spec: OperatorSpec, hidden: int) -> list[Piece]:
    norm = "pre_ffn_layernorm" if isinstance(spec, FeedForward) else "input_layernorm"
    found = [Piece("norm.weight", ((f"{norm}.weight", hidden),))]
    if isinstance(spec, DeltaNet):
        qkv = ("q", "k", "v")
        return [*found,
                Piece("mixer.in_proj.weight", (*((f"gla.{x}_proj.weight", hidden) for x in qkv),
                                               ("gla.b_proj.weight", spec.heads(hidden)))),
                Piece("mixer.conv.weight", tuple((f"gla.{x}_conv1d.weight", hidden) for x in qkv), filters=True),
                Piece("mixer.norm.weight", (("gla.o_norm.weight", spec.head_dim),)),
                Piece("mixer.out_proj.weight", (("gla.o_proj.weight", hidden),))]
    if isinstance(spec, Attention):
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        norms = [Piece(f"mixer.{x}_norm.weight", ((f"self_attn.{x}_norm.weight", spec.head_dim),)) for x in ("q", "k")]
        return [*found, *(norms if spec.qk_norm else []),
                Piece("mixer.in_proj.weight", (("self_attn.q_proj.weight", q), ("self_attn.k_proj.weight", kv),
                                               ("self_attn.v_proj.weight", kv))),
                Piece("mixer.out_proj.weight", (("self_attn.o_proj.weight", hidden),))]
    if isinstance(spec, FeedForward):
        inner = spec.intermediate
        return [*found,
                Piece("mixer.in_proj.weight", (("ffn.gate_proj.weight", inner), ("ffn.up_proj.weight", inner))),
                Piece("mixer.out_proj.weight", (("ffn.down_proj.weight", hidden),))]
    if isinstance(spec, Mamba2):
        return [*found, *_mamba2(spec, hidden)]
    raise ValueError(f"the family has no operator {spec.kind!r}")


def _mamba2(spec: Mamba2, hidden: int) -> list[Piece]:
    inner, channels, heads = spec.inner(hidden), spec.conv_channels(hidden), spec.head_count(hidden)
    return [Piece("mixer.in_proj.weight", (("mamba.in_proj.weight", inner + channels + heads),)),
            Piece("mixer.conv.weight", (("mamba.conv1d.weight", channels),), filters=True),
            Piece("mixer.conv.bias", (("mamba.conv1d.bias", channels),)),
            *(Piece(f"mixer.{x}", ((f"mamba.{x}", heads),)) for x in ("A_log", "D", "dt_bias")),
            Piece("mixer.norm.weight", (("mamba.norm.weight", inner),)),
            Piece("mixer.out_proj.weight", (("mamba.out_proj.weight", hidden),))]


def to_family(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """`HybridLM.state_dict()` under the names of the family."""
    named = {}
    for piece in pieces(architecture):
        rows = tensors[piece.hybrid].split([count for _, count in piece.family])
        for (name, _), part in zip(piece.family, rows, strict=True):
            named[name] = (part.unsqueeze(1) if piece.filters else part).clone()  # files hold no shared storage
    return named


def from_family(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """The inverse of `to_family`; raises KeyError for a missing tensor."""
    named = {}
    for piece in pieces(architecture):
        whole = torch.cat([tensors[name] for name, _ in piece.family])
        named[piece.hybrid] = whole.squeeze(1) if piece.filters else whole
    return named
