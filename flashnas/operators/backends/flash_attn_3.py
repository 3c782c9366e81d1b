"""flash-attn 3: softmax attention in bfloat16 and float16 on Hopper, a package of its own
(`flash_attn_interface`).

Its functions have the arguments of flash-attn 2 that are used here, with the same masks and windows; releases
before 3.0 return the log-sum-exp as well. Source: hopper/flash_attn_interface.py,
github.com/Dao-AILab/flash-attention.
"""

from __future__ import annotations

import inspect

import torch

from flashnas.operators.backends import flash_attn
from flashnas.operators.backends.flash_attn import FUNCTIONS, HOPPER, IN_PLACE, pair_of, step_in_place
from flashnas.operators.backends.library import Forms, Library, Sizes


def attention(dtype: torch.dtype) -> Forms:
    """Early releases do not write into the cache."""
    from flash_attn_interface import flash_attn_func, flash_attn_with_kvcache

    able = "rotary_cos" in inspect.signature(flash_attn_with_kvcache).parameters
    return Forms(*pair_of(flash_attn_func, flash_attn_with_kvcache, dtype), None,
                 step_in_place(flash_attn_with_kvcache) if able else None, IN_PLACE)


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != HOPPER:
        return "it needs a Hopper device (compute capability 9)"
    return flash_attn.refusal(core, dtype, sizes)


LIBRARY = Library(name="flash-attn-3", package="flash_attn_interface", distribution="flash_attn_3",
                  refusal=refusal, kernels={"attention": attention}, functions=FUNCTIONS)
