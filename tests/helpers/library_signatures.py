"""Parameters of the functions that our adapters call, in order and with defaults, as the sources of the
releases have them: the oldest that we take and the newest of 2026-11 on PyPI. flash-attn 3 is the folder
`hopper` of the sources of flash-attn; it is not released there by itself, so that its last entry is a commit.

The first release of each function is the one whose signature the stand-in has.
"""

from __future__ import annotations

import inspect

KVCACHE = ("q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None,"
           " cache_batch_idx=None, cache_leftpad=None, block_table=None, softmax_scale=None, causal=False,"
           " window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, alibi_slopes=None, num_splits=0,"
           " return_softmax_lse=False")
KVCACHE_3 = ("q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None,"
             " cache_batch_idx=None, cache_leftpad=None, page_table=None, cu_seqlens_q=None, cu_seqlens_k_new=None,"
             " max_seqlen_q=None, rotary_seqlens=None, q_descale=None, k_descale=None, v_descale=None,"
             " softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0, softcap=0.0,"
             " rotary_interleaved=True, scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0,"
             " return_softmax_lse=False")
ATTENTION = ("q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,"
             " alibi_slopes=None, deterministic=False, return_attn_probs=False")
ATTENTION_3 = ("q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,"
               " window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,"
               " deterministic=False, sm_margin=0")
UPDATE = "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None"
MAMBA, CONVOLUTION = "2.3.2.post1 and 2.3.0", "1.7.0 and 1.4.0"

# module and function -> releases -> parameters
SIGNATURES: dict[tuple[str, str], dict[str, str]] = {
    ("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined"): {
        MAMBA: "x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None,"
               " cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, float('inf')), return_final_states=False,"
               " return_varlen_states=False"},
    ("mamba_ssm.ops.triton.ssd_combined", "mamba_split_conv1d_scan_combined"): {
        MAMBA: "zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states=None, seq_idx=None,"
               " dt_limit=(0.0, float('inf')), return_final_states=False, activation='silu', rmsnorm_weight=None,"
               " rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None, headdim=None, ngroups=1,"
               " norm_before_gate=True"},
    ("mamba_ssm.ops.triton.selective_state_update", "selective_state_update"): {
        MAMBA: "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None"},
    ("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"): {
        MAMBA: "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False"},
    ("mamba_ssm.ops.triton.layernorm_gated", "rmsnorm_fn"): {
        MAMBA: "x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True"},
    ("causal_conv1d", "causal_conv1d_fn"): {
        CONVOLUTION: "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,"
                     " final_states_out=None, activation=None"},
    ("causal_conv1d", "causal_conv1d_update"): {"1.7.0": f"{UPDATE}, conv_state_indices=None",
                                                "1.4.0": UPDATE},
    ("flash_attn", "flash_attn_func"): {"2.8.3.post2 and 2.7.0.post2": ATTENTION},
    ("flash_attn", "flash_attn_with_kvcache"): {"2.8.3.post2 and 2.7.0.post2": KVCACHE},
    ("flash_attn_interface", "flash_attn_func"): {
        "c082294e": f"{ATTENTION_3}, return_attn_probs=False", "in flash-attn 2.8.3.post2": ATTENTION_3,
        "in flash-attn 2.7.0.post2": "q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1),"
                                     " deterministic=False, descale_q=None, descale_k=None, descale_v=None,"
                                     " gqa_parallel=False"},
    ("flash_attn_interface", "flash_attn_with_kvcache"): {
        "c082294e, and in flash-attn 2.8.3.post2": KVCACHE_3,
        "in flash-attn 2.7.0.post2": "q, k_cache, v_cache, cache_seqlens=None, cache_batch_idx=None,"
                                     " softmax_scale=None, causal=False, window_size=(-1, -1), num_splits=0,"
                                     " return_softmax_lse=False, gqa_parallel=None, max_seqlen_k_hint=None,"
                                     " descale_q=None, descale_k=None, descale_v=None"},
}


def signatures(module: str, name: str) -> list[inspect.Signature]:
    """Those of all releases, the newest first."""
    return [inspect.signature(eval(f"lambda {text}: None")) for text in SIGNATURES[module, name].values()]
