"""The network of the family, computed from a config.json and its weights, token by token: the check of each
export.

It shares no code with HybridLM: a tensor under a wrong name, or split at a wrong row, changes the logits.
Shapes: B batch, T time, D hidden, H heads, K key dim, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

INNER_EPS = 1e-5  # of the norms after DeltaNet and Mamba2, fixed in the family's code


def family_logits(config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokens_BT: Tensor, *,
                  divided: bool = False) -> Tensor:
    """The logits [B, T, V] of the family's network in float32.

    Args:
        config: the content of config.json.
        tensors: the weights by the names of the family.
        divided: divide logits by the norms of the head's rows, as the released model code does.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the family does not read one of the tensors.
    """
    model = _Family(config, tensors)
    logits = model.logits(tokens_BT, divided)
    if unread := sorted(set(tensors) - model.read):
        raise ValueError(f"the family does not read {unread[0]}")
    return logits


class _Family:
    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors
        self.read: set[str] = set()

    def weight(self, name: str) -> Tensor:
        self.read.add(name)
        return self.tensors[name].float()

    def project(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weight(f"{name}.weight").T

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * self.weight(f"{name}.weight")

    def logits(self, tokens_BT: Tensor, divided: bool) -> Tensor:
        config, eps = self.config, self.config["rms_norm_eps"]
        embedding = self.weight("model.embed_tokens.weight")
        x = embedding[tokens_BT]
        memory = config["num_memory_tokens"]
        if memory:
            x = torch.cat([self.weight("model.memory_tokens").expand(len(x), -1, -1), x], 1)
        mixers = {"deltanet": ("gla", self.delta_net), "m2": ("mamba", self.mamba2), "a": ("self_attn",
                                                                                           self.attention)}
        for n, kind in enumerate(config["layer_types"]):
            layer = f"model.layers.{n}"
            if kind == "f":
                x = x + self.feed_forward(self.norm(x, f"{layer}.pre_ffn_layernorm", eps), f"{layer}.ffn")
                continue
            name, mixer = mixers[kind]
            x = x + mixer(self.norm(x, f"{layer}.input_layernorm", eps), f"{layer}.{name}")
        x = self.norm(x, "model.final_layernorm", eps)[:, memory:]
        head = (embedding if config["tie_word_embeddings"] else
                self.weight("lm_head.weight")[:config["vocab_size"]])
        return x @ head.T / (head.norm(dim=1) if divided else 1.0)

    def feed_forward(self, x: Tensor, name: str) -> Tensor:
        hidden, ratio = self.config["hidden_size"], self.config["ffn_expand_ratio"]
        gate, up = self.project(x, f"{name}.gate_proj"), self.project(x, f"{name}.up_proj")
        if gate.shape[-1] != int(ratio * hidden) // 128 * 128:
            raise ValueError(f"{name}: ffn_expand_ratio {ratio} does not give {gate.shape[-1]}")
        return self.project(F.silu(gate) * up, f"{name}.down_proj")

    def convolved(self, x_BTC: Tensor, name: str, bias: bool) -> Tensor:
        weight = self.weight(f"{name}.weight")
        y = F.conv1d(x_BTC.mT, weight, self.weight(f"{name}.bias") if bias else None,
                     padding=weight.shape[-1] - 1, groups=len(weight))
        return F.silu(y[..., :x_BTC.shape[1]].mT)

    def delta_net(self, x: Tensor, name: str) -> Tensor:
        heads = self.config["num_attention_heads"]
        q, k, v = (self.convolved(self.project(x, f"{name}.{part}_proj"), f"{name}.{part}_conv1d", bias=False)
                   .unflatten(-1, (heads, -1)) for part in "qkv")
        beta = self.project(x, f"{name}.b_proj").sigmoid()
        q, k = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6) for part in (q, k))
        state, outputs = torch.zeros(len(x), heads, q.shape[-1], v.shape[-1]), []
        for t in range(x.shape[1]):
            seen = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
            state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * (v[:, t] - seen))
            outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * q.shape[-1] ** -0.5, state))
        o = self.norm(torch.stack(outputs, 1), f"{name}.o_norm", INNER_EPS)
        return self.project(o.flatten(-2), f"{name}.o_proj")

    def mamba2(self, x: Tensor, name: str) -> Tensor:
        config = self.config
        inner, size = config["mamba_expand"] * config["hidden_size"], config["mamba_d_state"]
        heads = inner // config["mamba2_headdim"]
        z, xbc, dt = self.project(x, f"{name}.in_proj").split([inner, inner + 2 * size, heads], -1)
        u, b, c = self.convolved(xbc, f"{name}.conv1d", config["mamba_conv_bias"]).split([inner, size, size],
                                                                                         -1)
        u = u.unflatten(-1, (heads, -1))
        dt = F.softplus(dt + self.weight(f"{name}.dt_bias"))
        decay = (-dt * self.weight(f"{name}.A_log").exp()).exp()
        state, outputs = torch.zeros(len(x), heads, u.shape[-1], size), []
        for t in range(x.shape[1]):
            state = state * decay[:, t, :, None, None] + torch.einsum("bhp,bn->bhpn", u[:, t] * dt[:, t, :,
                                                                                                   None],
                                                                      b[:, t])
            outputs.append(torch.einsum("bhpn,bn->bhp", state, c[:, t]))
        y = torch.stack(outputs, 1) + u * self.weight(f"{name}.D")[:, None]
        return self.project(self.norm(y.flatten(-2) * F.silu(z), f"{name}.norm", INNER_EPS),
                            f"{name}.out_proj")

    def attention(self, x: Tensor, name: str) -> Tensor:
        config, tokens = self.config, x.shape[1]
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        q, k, v = (self.project(x, f"{name}.{part}_proj").unflatten(-1, (count, -1)).transpose(1, 2)
                   for part, count in (("q", heads), ("k", groups), ("v", groups)))
        if config["kq_norm"] == "rms":
            q, k = self.norm(q, f"{name}.q_norm", 1e-6), self.norm(k, f"{name}.k_norm", 1e-6)
        if config["rope"]:
            dim = q.shape[-1]
            angle = torch.outer(torch.arange(tokens, dtype=torch.float64),
                                config["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim))
            turn = torch.polar(torch.ones_like(angle), angle)
            q, k = (_turned(part, turn) for part in (q, k))
        k, v = (part.repeat_interleave(heads // groups, 1) for part in (k, v))
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        o = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        return self.project(o.transpose(1, 2).flatten(-2), f"{name}.o_proj")


def _turned(x_BHTK: Tensor, turn_TK: Tensor) -> Tensor:
    """The first half of a head's channels are real parts, the second imaginary ones."""
    first, second = x_BHTK.double().chunk(2, -1)
    turned = torch.complex(first, second) * turn_TK
    return torch.cat([turned.real, turned.imag], -1).float()
