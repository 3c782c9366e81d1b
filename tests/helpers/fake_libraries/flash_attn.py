"""flash-attn 2.8: flash_attn_interface.py, csrc/flash_attn/flash_api.cpp."""

import torch

from fake_libraries.shared import HALF, same_dtype, stand_in


@stand_in("flash_attn")
def flash_attn_func(q, k, v, softmax_scale, causal, window_size):
    """[B, T, H, K]; the mask ends in the bottom right corner, `window_size` counts tokens beside
    the query's.
    """
    assert same_dtype(q, k, v) in HALF
    tokens, keys, head_dim = q.shape[1], k.shape[1], q.shape[3]
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert k.shape == v.shape
    assert q.shape[2] % k.shape[2] == 0
    own = torch.arange(tokens, device=q.device).unsqueeze(1) + keys - tokens
    other = torch.arange(keys, device=q.device)
    left, right = window_size[0], 0 if causal else window_size[1]
    seen = (other <= own + right if right >= 0 else own == own) & (
        other >= own - left if left >= 0 else own == own
    )
    k, v = (x.float().repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * (softmax_scale or head_dim**-0.5)
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).to(q.dtype)


@stand_in("flash_attn")
def flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens):
    """One token, to the first `cache_seqlens` slots. Checks as in csrc/flash_attn/flash_api.cpp,
    mha_fwd_kvcache; what they decide by are shapes alone."""
    assert not torch.is_grad_enabled(), "does not support backward pass"
    batch, room, groups, head_dim = k_cache.shape
    assert same_dtype(q, k_cache, v_cache) in HALF
    assert all(x.stride(-1) == 1 for x in (q, k_cache, v_cache))
    if cache_seqlens is None:
        return flash_attn_func(q, k_cache, v_cache, None, False, (-1, -1))
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.shape == (batch,)
    assert cache_seqlens.is_contiguous()
    assert q.shape[1] == 1
    k, v = (x.float().repeat_interleave(q.shape[2] // groups, 2) for x in (k_cache, v_cache))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * head_dim**-0.5
    unseen = torch.arange(room, device=q.device) >= cache_seqlens.view(-1, 1, 1, 1)
    return torch.einsum(
        "bhqk,bkhd->bqhd", scores.masked_fill(unseen, -torch.inf).softmax(-1), v
    ).to(q.dtype)
