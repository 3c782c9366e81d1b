"""How each tensor of a GGUF file follows from a tensor of HybridLM, and back.

llama.cpp has one epsilon in all norms of a file. HybridLM has two: NORM_EPS in front of operators and OUTPUT_NORM_EPS
inside Mamba2. A norm does not change when its input and the root of its epsilon are scaled by the same number. A file
with Mamba2 therefore has OUTPUT_NORM_EPS, and all that writes to the residual stream is multiplied by STREAM_SCALE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashnas.architecture import Architecture
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.mamba2.spec import Mamba2
from flashnas.operators.parts.norms import NORM_EPS, OUTPUT_NORM_EPS

STREAM_SCALE = (OUTPUT_NORM_EPS / NORM_EPS) ** 0.5


@dataclass(frozen=True)
class Piece:
    """One tensor of a file: scale x the chosen rows and columns of one tensor of HybridLM.

    rows, columns: indices; None: all. shape: of the written tensor; None: as it is. small: it stays in float32 in every
    type of file. decay: -exp of the tensor is written. source "": zeros of `shape`, for a bias that HybridLM lacks.
    """

    name: str
    source: str
    rows: Tensor | None = None
    columns: Tensor | None = None
    scale: float = 1.0
    shape: tuple[int, ...] | None = None
    small: bool = False
    decay: bool = False

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor to write, in float32."""
        if not self.source:
            assert self.shape is not None
            return torch.zeros(self.shape)
        tensor = tensors[self.source].float()
        if self.rows is not None:
            tensor = tensor[self.rows]
        if self.columns is not None:
            tensor = tensor[:, self.columns]
        tensor = -tensor.exp() if self.decay else tensor * self.scale
        return tensor.reshape(self.shape) if self.shape else tensor

    def back(self, written: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Put a written tensor into its place in `tensors`, which has the tensors of HybridLM."""
        if not self.source:
            return
        target = tensors[self.source]
        value = (-written).log() if self.decay else written / self.scale
        rows = torch.arange(len(target)) if self.rows is None else self.rows
        value = value.reshape(len(rows), *target.shape[1:])
        if self.columns is None:
            target[rows] = value
        else:
            target[rows[:, None], self.columns] = value


def operator_pieces(spec: OperatorSpec, hidden: int, name: str, *, interleaved: bool) -> list[Piece]:
    """The pieces of an operator without its norm.

    Args:
        spec: with every option explicit.
        hidden: width of the network.
        name: layer of HybridLM, "layers.N".
        interleaved: rotary positions turn neighbouring channels of a head, not its two halves.
    """
    if isinstance(spec, Mamba2):
        found = _mamba2(spec, hidden)
    elif isinstance(spec, Attention):
        found = _attention(spec, interleaved)
    elif isinstance(spec, GatedDeltaNet):
        found = _gated_delta_net(spec, hidden)
    elif isinstance(spec, FeedForward):
        found = _feed_forward(spec)
    else:
        raise TypeError(f"no pieces for operator {spec.kind!r}")
    return [replace(piece, source=piece.source and f"{name}.mixer.{piece.source}") for piece in found]


def _mamba2(spec: Mamba2, hidden: int) -> list[Piece]:
    inner, heads, channels = spec.inner(hidden), spec.head_count(hidden), spec.conv_channels(hidden)
    return [
        Piece("ssm_in.weight", "in_proj.weight"),
        Piece("ssm_conv1d.weight", "conv.weight", small=True),
        Piece("ssm_conv1d.bias", "conv.bias" if spec.conv_bias else "", shape=(channels,), small=True),
        Piece("ssm_dt.bias", "dt_bias", small=True),
        Piece("ssm_a", "A_log", shape=(heads, 1), small=True, decay=True),
        Piece("ssm_d", "D", shape=(heads, 1), small=True),
        Piece("ssm_norm.weight", "norm.weight", shape=(spec.groups, inner // spec.groups), small=True),
        Piece("ssm_out.weight", "out_proj.weight"),
    ]


def _attention(spec: Attention, interleaved: bool) -> list[Piece]:
    heads, kv_heads, dim = spec.heads, spec.kv_heads, spec.head_dim
    order = torch.arange(dim)
    if interleaved:
        half = spec.rotary_dim // 2
        order[:2 * half] = torch.stack([torch.arange(half), torch.arange(half) + half], 1).flatten()
    rows = torch.arange((heads + 2 * kv_heads) * dim + heads * dim * spec.out_gate).unflatten(0, (-1, dim))
    q, k, v, gate = rows.split([heads, kv_heads, kv_heads, heads * spec.out_gate])
    q, k = q[:, order], k[:, order]
    if spec.out_gate:  # each head's queries, then its gate
        q = torch.stack([q, gate], 1)
    pieces = []
    for part, chosen in (("q", q), ("k", k), ("v", v)):
        pieces.append(Piece(f"attn_{part}.weight", "in_proj.weight", rows=chosen.flatten()))
        if spec.qkv_bias:
            pieces.append(Piece(f"attn_{part}.bias", "in_proj.bias", rows=chosen.flatten(), small=True))
    if spec.qk_norm:
        pieces += [Piece(f"attn_{part}_norm.weight", f"{part}_norm.weight", small=True) for part in ("q", "k")]
    pieces.append(Piece("attn_output.weight", "out_proj.weight"))
    return [*pieces, *([Piece("attn_output.bias", "out_proj.bias", small=True)] if spec.out_bias else [])]


def _gated_delta_net(spec: GatedDeltaNet, hidden: int) -> list[Piece]:
    """llama.cpp counts value heads so that neighbours read different key heads; HybridLM so that they read the same."""
    key, value, heads, dim = spec.key_size(hidden), spec.value_size(hidden), spec.v_heads(hidden), spec.head_dim
    order = torch.arange(heads).unflatten(0, (spec.k_heads, spec.expand_v)).T.flatten()
    wide = (order[:, None] * dim + torch.arange(dim)).flatten()  # channels of the value heads in that order
    qkv = torch.cat([torch.arange(2 * key), 2 * key + wide])
    z = 2 * key + value
    return [
        Piece("attn_qkv.weight", "in_proj.weight", rows=qkv),
        Piece("attn_gate.weight", "in_proj.weight", rows=z + wide),
        Piece("ssm_beta.weight", "in_proj.weight", rows=z + value + order),
        Piece("ssm_alpha.weight", "in_proj.weight", rows=z + value + heads + order),
        Piece("ssm_conv1d.weight", "conv.weight", rows=qkv, small=True),
        Piece("ssm_dt.bias", "dt_bias", rows=order, small=True),
        Piece("ssm_a", "A_log", rows=order, small=True, decay=True),
        Piece("ssm_norm.weight", "norm.weight", small=True),
        Piece("ssm_out.weight", "out_proj.weight", columns=wide),
    ]


def _feed_forward(spec: FeedForward) -> list[Piece]:
    inner = spec.intermediate
    parts = [("up", torch.arange(inner))] if spec.relu2 else [
        ("gate", torch.arange(inner)), ("up", inner + torch.arange(inner))]
    pieces = []
    for part, rows in parts:
        pieces.append(Piece(f"ffn_{part}.weight", "in_proj.weight", rows=rows))
        if spec.bias:
            pieces.append(Piece(f"ffn_{part}.bias", "in_proj.bias", rows=rows, small=True))
    pieces.append(Piece("ffn_down.weight", "out_proj.weight"))
    return [*pieces, *([Piece("ffn_down.bias", "out_proj.bias", small=True)] if spec.bias else [])]


def model_pieces(architecture: Architecture, *, second_norm: str, interleaved: bool, scaled: bool) -> list[Piece]:
    """All tensors of a file.

    Args:
        architecture: with every option explicit.
        second_norm: name of the norm of an FFN that belongs to the layer of the mixer before it; "": it is a layer of
            its own.
        interleaved: see `operator_pieces`.
        scaled: multiply what writes to the residual stream by STREAM_SCALE.
    """
    scale = STREAM_SCALE if scaled else 1.0
    found = [Piece("token_embd.weight", "embedding.weight", scale=scale),
             # a head that is the embedding has the scale, too; the norm before it takes the scale back
             Piece("output_norm.weight", "final_norm.weight", small=True, scale=1 / scale if architecture.tied else 1)]
    if not architecture.tied:
        found.append(Piece("output.weight", "head.weight"))
    layer = -1
    for n, spec in enumerate(architecture.operators):
        second = bool(second_norm) and not spec.mixes_tokens
        layer += not second
        norm = second_norm if second else "attn_norm"
        pieces = [Piece(f"{norm}.weight", f"layers.{n}.norm.weight", small=True),
                  *operator_pieces(spec, architecture.hidden, f"layers.{n}", interleaved=interleaved)]
        for piece in pieces:
            writes = piece.source.endswith(("out_proj.weight", "out_proj.bias"))
            found.append(replace(piece, name=f"blk.{layer}.{piece.name}", scale=scale if writes else 1.0))
    return found
