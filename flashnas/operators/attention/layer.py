"""Grouped-query softmax attention with rotary positions as in Llama and Qwen3, full (`a`) or
windowed (`swa`)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.attention.cache import KeyValueCache
from flashnas.operators.attention.spec import Attention
from flashnas.operators.backends.core import Core
from flashnas.operators.layer import Layer
from flashnas.operators.parts import Rotary, cached_table, linear_reference, rotate

MIN_WINDOW_BLOCK = 128  # queries


@cached_table
def causal_mask(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """[queries, keys]: True where a query sees a key; the last query has the position of the last
    key.
    """
    positions_T1 = torch.arange(queries, device=device).unsqueeze(1) + keys - queries
    distance = positions_T1 - torch.arange(keys, device=device)
    mask = distance >= 0
    return mask & (distance < window) if window else mask


def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
    """Causal attention of the last tokens to all keys, H query heads on G key heads; returns [B, H,
    T, K]. By torch's scaled_dot_product_attention, whose scores are in float32 in every dtype."""
    tokens, keys = q_BHTK.shape[2], k_BGTK.shape[2]
    block = max(window, MIN_WINDOW_BLOCK)
    if window and tokens > 2 * block:
        # a mask of all would take 1 GB at 33,000 tokens, and most of what is computed be hidden
        parts = []
        for start in range(0, tokens, block):
            end = start + block
            seen = slice(max(0, keys - tokens + start + 1 - window), keys - tokens + end)
            parts.append(
                attend(q_BHTK[:, :, start:end], k_BGTK[:, :, seen], v_BGTK[:, :, seen], window)
            )
        return torch.cat(parts, 2)
    gqa = q_BHTK.shape[1] != k_BGTK.shape[1]
    if tokens == keys and not (window and tokens > window):
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=gqa
        )
    # a further part of a prompt: by flash attention, without a mask in memory
    if _on_gpu(q_BHTK) and not window:
        from torch.nn.attention.bias import causal_lower_right  # imports torch._dynamo, in seconds

        mask = causal_lower_right(tokens, keys)
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGTK, v_BGTK, attn_mask=mask, enable_gqa=gqa
        )
    return _attend_masked(q_BHTK, k_BGTK, v_BGTK, causal_mask(tokens, keys, window, q_BHTK.device))


def _on_gpu(x: Tensor) -> bool:
    return not x.is_cpu


def _attend_masked(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask_TS: Tensor) -> Tensor:
    """With a mask no kernel of torch for a GPU takes grouped heads: it would compute all scores in
    float32.
    """
    repeats = q_BHTK.shape[1] // k_BGSK.shape[1]
    if repeats > 1 and _on_gpu(q_BHTK):
        k_BGSK = k_BGSK.repeat_interleave(repeats, 1)
        v_BGSK = v_BGSK.repeat_interleave(repeats, 1)
        repeats = 1
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=mask_TS, enable_gqa=repeats > 1
    )


def attend_step(
    q_BHK: Tensor, keys_BGTK: Tensor, values_BGTK: Tensor, kept_B: Tensor | None = None
) -> Tensor:
    """Attention of one token to all kept ones, in any order; returns [B, H, K]. kept_B: how many
    slots hold tokens, for each sequence; None: all."""
    batch, groups, slots, head_dim = keys_BGTK.shape
    # the query heads of one key head are rows of one product: kernels for a mask take no grouped
    # heads
    q_BGRK = q_BHK.reshape(batch, groups, -1, head_dim)
    mask_B11T = None
    if kept_B is not None:
        mask_B11T = torch.arange(slots, device=q_BHK.device) < kept_B.view(-1, 1, 1, 1)
    o_BGRK = F.scaled_dot_product_attention(q_BGRK, keys_BGTK, values_BGTK, attn_mask=mask_B11T)
    return o_BGRK.reshape(q_BHK.shape)


class AttentionLayer(Layer):
    """Without a window each token sees all before it; with one, the last `window` tokens, itself
    included.
    """

    def __init__(self, spec: Attention, hidden: int) -> None:
        super().__init__(spec, hidden)
        spec = spec.resolved(hidden)
        self.heads = spec.heads
        self.kv_heads = spec.kv_heads
        self.head_dim = spec.head_dim
        self.window = spec.window_tokens
        self.rotary = Rotary(spec.rotary_dim, spec.rope_theta, spec.rope_factor, spec.rope_original)
        self.gates = self.heads if spec.out_gate else 0
        self.in_proj = self.linear("in_proj")
        self.q_norm = self.norm_of("q_norm") if spec.qk_norm else None
        self.k_norm = self.norm_of("k_norm") if spec.qk_norm else None
        self.out_proj = self.linear("out_proj")
        self.core = Core(
            "attention", spec.name, (attend, attend_step), own="sdpa", head_dim=self.head_dim
        )

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> KeyValueCache:
        empty = torch.zeros(batch, self.kv_heads, 0, self.head_dim, dtype=dtype, device=device)
        return KeyValueCache(empty, empty, 0, self.window)

    def reference(
        self, x_BTD: Tensor, state: KeyValueCache | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        x = x_BTD.double()
        state = state or self.init_state(len(x), x.dtype, x.device)
        heads = linear_reference(self.in_proj, x).unflatten(-1, (-1, self.head_dim))
        q, k, v, gate = heads.split([self.heads, self.kv_heads, self.kv_heads, self.gates], 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        after = state.seen + x.shape[1]
        q, k = (rotate(part, slice(state.seen, after), after, self.rotary) for part in (q, k))
        old_keys, old_values = (past.double().transpose(1, 2) for past in state.in_order())
        keys = torch.cat([old_keys, k], 1)
        values = torch.cat([old_values, v], 1)
        repeats = self.heads // self.kv_heads
        outputs = []
        for t in range(x.shape[1]):
            end = state.kept + t + 1
            first = max(0, end - self.window) if self.window else 0
            seen_keys = keys[:, first:end].repeat_interleave(repeats, 2)
            seen_values = values[:, first:end].repeat_interleave(repeats, 2)
            scores = torch.einsum("bhk,bthk->bht", q[:, t], seen_keys) * self.head_dim**-0.5
            outputs.append(
                torch.einsum("bht,bthk->bhk", scores.softmax(-1), seen_values).flatten(1)
            )
        o = torch.stack(outputs, 1)
        y = linear_reference(self.out_proj, o * torch.sigmoid(gate.flatten(2)) if self.gates else o)
        return y, self._cache(keys.transpose(1, 2), values.transpose(1, 2), after)

    def forward(
        self, x_BTD: Tensor, state: KeyValueCache | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        before = state.seen if state else 0
        after = before + x_BTD.shape[1]
        *qkv, gate = self._project(x_BTD, slice(before, after), after)
        q, k, v = (part.transpose(1, 2) for part in qkv)
        if state is not None and before:
            old_keys, old_values = state.in_order()
            k = torch.cat([old_keys.to(k.dtype), k], 2)
            v = torch.cat([old_values.to(v.dtype), v], 2)
        o = self.core.of(q).forward(q, k, v, self.window)
        return self._output(o.transpose(1, 2), gate), self._cache(k, v, after)

    def step(self, x_BD: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        q, k, v, gate = self._project(x_BD, *state.next)
        state = state.appended(k, v)
        o = self.core.of(q).step(q, *state.slots())
        return self._output(o, gate), state

    def _project(
        self, x: Tensor, place: slice | int | Tensor, room: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised and rotated queries and keys, values and gate, [.., H, K]. place, room: as of
        `rotate`."""
        heads = self.in_proj(x).unflatten(-1, (-1, self.head_dim))
        qk, v, gate = heads.split([self.heads + self.kv_heads, self.kv_heads, self.gates], -2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split([self.heads, self.kv_heads], -2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], -2)
        q, k = rotate(qk, place, room, self.rotary).split([self.heads, self.kv_heads], -2)
        return q, k, v, gate

    def _output(self, o: Tensor, gate: Tensor) -> Tensor:
        """[.., H, K] to the hidden size."""
        return self.out_proj((o * torch.sigmoid(gate) if self.gates else o).flatten(-2))

    def _cache(self, keys: Tensor, values: Tensor, seen: int) -> KeyValueCache:
        if self.window and seen >= self.window:
            # position p goes to slot p mod window, of a copy, into which steps write
            keys, values = (
                x[:, :, -self.window :].roll(seen % self.window, 2) for x in (keys, values)
            )
        return KeyValueCache(keys, values, seen, self.window)
