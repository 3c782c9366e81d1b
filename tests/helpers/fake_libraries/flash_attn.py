"""flash-attn 2.8: flash_attn_interface.py, csrc/flash_attn/flash_api.cpp."""

import torch
import torch.nn.functional as F

from fake_libraries.shared import HALF, same_dtype, stand_in


def _attention(q, k, v, seen):
    """[B, T, H, K] each, by torch's kernel in float32."""
    assert same_dtype(q, k, v) in HALF
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert k.shape == v.shape
    wide = (x.float().transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*wide, seen, enable_gqa=True).transpose(1, 2).to(q.dtype)


@stand_in("flash_attn")
def flash_attn_func(q, k, v, causal, window_size):
    """The mask ends in the bottom right corner; `window_size` counts tokens beside the query's."""
    assert causal
    tokens, keys = q.shape[1], k.shape[1]
    seen = torch.ones(tokens, keys, dtype=torch.bool).tril(keys - tokens)
    if window_size[0] >= 0:
        seen = seen.triu(keys - tokens - window_size[0])
    return _attention(q, k, v, seen)


@stand_in("flash_attn")
def flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens):
    """One token, to the first `cache_seqlens` slots. Checks as in csrc/flash_attn/flash_api.cpp,
    mha_fwd_kvcache; what they decide by are shapes alone."""
    assert not torch.is_grad_enabled(), "does not support backward pass"
    assert q.shape[1] == 1
    if cache_seqlens is None:
        return _attention(q, k_cache, v_cache, None)
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.shape == k_cache.shape[:1]
    assert cache_seqlens.is_contiguous()
    seen = torch.arange(k_cache.shape[1]) < cache_seqlens.view(-1, 1, 1, 1)
    return _attention(q, k_cache, v_cache, seen)
