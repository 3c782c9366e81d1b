"""torch's scaled_dot_product_attention, which picks a fused kernel itself; on CUDA and CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashnas.operators.backends.library import Library, Pair, Sizes


def attention(dtype: torch.dtype) -> Pair:
    """`attend` and the attention of one token to all kept ones, whose order does not matter."""
    from flashnas.operators.attention.layer import attend_by_kernel

    def step(q_BHK: Tensor, keys_BGTK: Tensor, values_BGTK: Tensor) -> Tensor:
        gqa = q_BHK.shape[1] != keys_BGTK.shape[1]
        return F.scaled_dot_product_attention(q_BHK.unsqueeze(2), keys_BGTK, values_BGTK,
                                              enable_gqa=gqa).squeeze(2)

    return attend_by_kernel, step


def refusal(core: str, dtype: torch.dtype, sizes: Sizes) -> str:
    return ""


LIBRARY = Library(name="sdpa", package="torch", distribution="torch", refusal=refusal,
                  kernels={"attention": attention}, devices=("cpu", "cuda"))
