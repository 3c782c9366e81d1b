"""flash-attn, 2.7 or later: softmax attention in bfloat16 and float16 on Ampere or newer.

Its tensors are [B, T, H, K]; a causal mask ends in the bottom right corner, as ours does, and a window (left,
right) counts the tokens before and after the query's own. Source: the docstrings of
flash_attn/flash_attn_interface.py, github.com/Dao-AILab/flash-attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashnas.operators.attention.cache import FixedCache
from flashnas.operators.backends.library import HALF, Forms, Function, Library, Pair, Sizes, name_of

IN_PLACE = "rotary positions and the writing of keys and values"
FUNCTIONS = ("flash_attn_func", "flash_attn_with_kvcache")  # flash-attn 4 has the package, but not these
MAX_HEAD_DIM = 256
MIN_CAPABILITY = (8, 0)
HOPPER, OLD_CUDNN = 9, 91500   # torch prefers cuDNN's attention with later ones


def attention(dtype: torch.dtype) -> Forms:
    from flash_attn import flash_attn_func, flash_attn_with_kvcache

    return Forms(*pair_of(flash_attn_func, flash_attn_with_kvcache, dtype), None,
                 step_in_place(flash_attn_with_kvcache), IN_PLACE)


def pair_of(flash_attn_func: Function, flash_attn_with_kvcache: Function, dtype: torch.dtype) -> Pair:
    """`attend` and the attention of one token to all kept ones, whose order does not matter."""
    def forward(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        q, k, v = (x.to(dtype).transpose(1, 2) for x in (q_BHTK, k_BGTK, v_BGTK))
        o = flash_attn_func(q, k, v, causal=True, window_size=(window - 1, 0) if window else (-1, -1))
        return _output(o).transpose(1, 2)

    def step(q_BHK: Tensor, keys_BGTK: Tensor, values_BGTK: Tensor) -> Tensor:
        keys, values = (x.to(dtype).transpose(1, 2) for x in (keys_BGTK, values_BGTK))
        return _output(flash_attn_with_kvcache(q_BHK.to(dtype).unsqueeze(1), keys, values)).squeeze(1)

    return forward, step


def step_in_place(flash_attn_with_kvcache: Function) -> Function:
    """Attention of one token whose position lies on the device. With key and value: the kernel rotates them
    and the query, in halves, and writes them into the cache; without: they are there."""
    def step(q_BHK: Tensor, cache: FixedCache, k_BGK: Tensor | None = None, v_BGK: Tensor | None = None,
             halves: Tensor | None = None) -> Tensor:
        keys, values = cache.keys_BGTK.transpose(1, 2), cache.values_BGTK.transpose(1, 2)
        if k_BGK is None or v_BGK is None:
            o = flash_attn_with_kvcache(q_BHK.unsqueeze(1), keys, values, cache_seqlens=cache.kept_B())
        else:
            cos, sin = (None, None) if halves is None else halves.unbind()
            o = flash_attn_with_kvcache(q_BHK.unsqueeze(1), keys, values, k_BGK.unsqueeze(1),
                                        v_BGK.unsqueeze(1), rotary_cos=cos, rotary_sin=sin,
                                        cache_seqlens=cache.position.seen_B, rotary_interleaved=False)
        return _output(o).squeeze(1)

    return step


def _output(found: Any) -> Tensor:
    output: Tensor = found[0] if isinstance(found, tuple) else found
    return output


def on_hopper(core: str, dtype: torch.dtype) -> tuple[Pair, str] | None:
    """Steps by flash-attn, and prompts by SDPA as far as it needs no mask: on Hopper torch takes cuDNN's
    kernel, which is faster than flash-attn 2 there
    (pytorch/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp)."""
    if not (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER
            and (torch.backends.cudnn.version() or 0) > OLD_CUDNN):
        return None
    from flashnas.operators.attention.layer import attend_by_kernel

    masked, step = attention(dtype)[:2]

    def forward(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, window: int) -> Tensor:
        tokens, keys = q_BHTK.shape[2], k_BGTK.shape[2]
        if tokens != keys or (window and tokens > window):
            return masked(q_BHTK, k_BGTK, v_BGTK, window)
        return attend_by_kernel(q_BHTK, k_BGTK, v_BGTK, window)

    return (forward, step), f"sdpa {torch.__version__}, steps {LIBRARY.name} {LIBRARY.version()}"


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if dtype not in HALF:
        return f"it takes bfloat16 and float16 only; got {name_of(dtype)}"
    head_dim = sizes["head_dim"]
    if head_dim > MAX_HEAD_DIM or head_dim % 8:
        return f"it takes head_dim in multiples of 8 up to {MAX_HEAD_DIM}; got {head_dim}"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < MIN_CAPABILITY:
        return "it needs a device of compute capability 8.0 or more"
    return ""


LIBRARY = Library(name="flash-attn", package="flash_attn", distribution="flash-attn", refusal=refusal,
                  kernels={"attention": attention}, least="2.7", on_auto=on_hopper, functions=FUNCTIONS)
