"""flash-attn 2.8: flash_attn_interface.py, csrc/flash_attn/flash_api.cpp; and 3: hopper/flash_attn_interface.py."""

from __future__ import annotations

import torch

from fake_libraries.shared import HALF, same_dtype


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                    softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False):
    """[B, T, H, K]; the mask ends in the bottom right corner, `window_size` counts tokens beside the query's.
    """
    assert same_dtype(q, k, v) in HALF
    tokens, keys, head_dim = q.shape[1], k.shape[1], q.shape[3]
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert k.shape == v.shape
    assert q.shape[2] % k.shape[2] == 0
    own = torch.arange(tokens, device=q.device).unsqueeze(1) + keys - tokens
    other = torch.arange(keys, device=q.device)
    left, right = window_size[0], 0 if causal else window_size[1]
    seen = (other <= own + right if right >= 0 else own == own) & (other >= own - left if left >= 0
                                                                   else own == own)
    k, v = (x.float().repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * (softmax_scale or head_dim ** -0.5)
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).to(q.dtype)


def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None,
                            cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None,
                            softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                            rotary_interleaved=True, alibi_slopes=None, num_splits=0,
                            return_softmax_lse=False):
    return _with_kvcache(q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, cache_seqlens, rotary_interleaved)


def _with_kvcache(q, k_cache, v_cache, k, v, cos, sin, cache_seqlens, interleaved):
    """One token. k and v are written at `cache_seqlens`, rotated as q is; without them `cache_seqlens` tokens are
    there. Checks as in csrc/flash_attn/flash_api.cpp, mha_fwd_kvcache; what they decide by are shapes alone."""
    assert not torch.is_grad_enabled(), "does not support backward pass"
    batch, room, groups, head_dim = k_cache.shape
    assert same_dtype(q, k_cache, v_cache) in HALF
    assert all(x.stride(-1) == 1 for x in (q, k_cache, v_cache))
    if cache_seqlens is None:
        assert k is None
        return flash_attn_func(q, k_cache, v_cache)
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.shape == (batch,)
    assert cache_seqlens.is_contiguous()
    assert q.shape[1] == 1
    assert cos is None or k is not None, "rotary needs new keys"
    lengths = cache_seqlens.long()
    if k is not None:
        assert k.shape == v.shape == (batch, 1, groups, head_dim)
        assert same_dtype(q, k, v)
        if cos is not None:
            assert cos.shape == sin.shape
            assert cos.dtype == sin.dtype == q.dtype
            assert cos.is_contiguous()
            assert sin.is_contiguous()
            assert cos.shape[0] >= room, "cos/sin seqlen must be at least the seqlen of KV cache"
            dim = 2 * cos.shape[1]
            assert dim % 16 == 0
            assert dim <= head_dim
            assert not interleaved, "GPT-J's order"
            c, s = (table.index_select(0, lengths)[:, None, None].float() for table in (cos, sin))

            def turned(x):
                a, b = x[..., :dim].float().chunk(2, -1)
                return torch.cat([a * c - b * s, b * c + a * s, x[..., dim:].float()], -1).to(x.dtype)

            q, k = turned(q), turned(k)
        place = lengths.view(-1, 1, 1, 1).expand(batch, 1, groups, head_dim)
        k_cache.scatter_(1, place, k)
        v_cache.scatter_(1, place, v)
        lengths = lengths + 1
    k, v = (x.float().repeat_interleave(q.shape[2] // groups, 2) for x in (k_cache, v_cache))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * head_dim ** -0.5
    unseen = torch.arange(room, device=q.device) >= lengths.view(-1, 1, 1, 1)
    return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(unseen, -torch.inf).softmax(-1), v).to(q.dtype)


def flash_attn_3_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
                      v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
                      pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False):
    """Of the package `flash_attn_interface`; no dropout. Before 3.0 it also returned the log-sum-exp."""
    o = flash_attn_func(q, k, v, 0.0, softmax_scale, causal, window_size)
    return o, torch.zeros(o.shape[:3])


def flash_attn_3_with_kvcache(q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
                              cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
                              cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None,
                              rotary_seqlens=None, q_descale=None, k_descale=None, v_descale=None,
                              softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0,
                              softcap=0.0, rotary_interleaved=True, scheduler_metadata=None, num_splits=0,
                              pack_gqa=None, sm_margin=0, return_softmax_lse=False):
    return _with_kvcache(q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, cache_seqlens, rotary_interleaved)


MODULES = {
    "flash_attn_interface": {"__version__": "0.0-fake", "flash_attn_func": flash_attn_3_func,
                             "flash_attn_with_kvcache": flash_attn_3_with_kvcache},
    "flash_attn": {"__version__": "0.0-fake", "flash_attn_func": flash_attn_func,
                   "flash_attn_with_kvcache": flash_attn_with_kvcache},
}
