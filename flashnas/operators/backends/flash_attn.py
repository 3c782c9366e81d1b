"""flash-attn, 2.7 or later: softmax attention in bfloat16 and float16 on Ampere or newer.

Its tensors are [B, T, H, K]; a causal mask ends in the bottom right corner, as ours does, and a
window (left, right) counts the tokens before and after the query's own. Source: the docstrings of
flash_attn/flash_attn_interface.py, github.com/Dao-AILab/flash-attention.
"""

import torch
from torch import Tensor

from flashnas.operators.backends.library import HALF, Library, Pair, Sizes

MAX_HEAD_DIM = 256
MIN_CAPABILITY = (8, 0)


def attention(dtype: torch.dtype) -> Pair:
    """`attend` and `attend_step`."""
    from flash_attn import flash_attn_func, flash_attn_with_kvcache

    def forward(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        q, k, v = (x.to(dtype).transpose(1, 2) for x in (q_BHTK, k_BGTK, v_BGTK))
        o: Tensor = flash_attn_func(
            q, k, v, causal=True, window_size=(window - 1, 0) if window else (-1, -1)
        )
        return o.transpose(1, 2)

    def step(
        q_BHK: Tensor, keys_BGTK: Tensor, values_BGTK: Tensor, kept_B: Tensor | None = None
    ) -> Tensor:
        keys, values = (x.to(dtype).transpose(1, 2) for x in (keys_BGTK, values_BGTK))
        o: Tensor = flash_attn_with_kvcache(
            q_BHK.to(dtype).unsqueeze(1), keys, values, cache_seqlens=kept_B
        )
        return o.squeeze(1)

    return forward, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype not in HALF:
        return f"it takes bfloat16 and float16 only; got {str(dtype).removeprefix('torch.')}"
    head_dim = sizes["head_dim"]
    if head_dim > MAX_HEAD_DIM or head_dim % 8:
        return f"it takes head_dim in multiples of 8 up to {MAX_HEAD_DIM}; got {head_dim}"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < MIN_CAPABILITY:
        return "it needs a device of compute capability 8.0 or more"
    return ""


LIBRARY = Library(
    name="flash-attn",
    package="flash_attn",
    distribution="flash-attn",
    refusal=refusal,
    kernels={"attention": attention},
    least="2.7",
)
