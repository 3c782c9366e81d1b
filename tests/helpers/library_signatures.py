"""Parameters of the functions that our adapters call, in order and with defaults, as the sources of
the releases have them: the oldest that we take and the newest of 2026-11 on PyPI.

The first release of each function is the one whose signature the stand-in has.
"""

import inspect

KVCACHE = (
    "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None,"
    " cache_batch_idx=None, cache_leftpad=None, block_table=None, softmax_scale=None, causal=False,"
    " window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, alibi_slopes=None, num_splits=0,"
    " return_softmax_lse=False"
)
ATTENTION = (
    "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,"
    " alibi_slopes=None, deterministic=False, return_attn_probs=False"
)
MAMBA = "2.3.2.post1 and 2.3.0"

# module and function -> releases -> parameters
SIGNATURES = {
    ("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined"): {
        MAMBA: "x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None,"
        " seq_idx=None,"
        " cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, float('inf')),"
        " return_final_states=False,"
        " return_varlen_states=False"
    },
    ("mamba_ssm.ops.triton.selective_state_update", "selective_state_update"): {
        MAMBA: "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False,"
        " state_batch_indices=None"
    },
    ("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"): {
        MAMBA: "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,"
        " return_last_state=False"
    },
    ("flash_attn", "flash_attn_func"): {"2.8.3.post2 and 2.7.0.post2": ATTENTION},
    ("flash_attn", "flash_attn_with_kvcache"): {"2.8.3.post2 and 2.7.0.post2": KVCACHE},
}


def signatures(module, name):
    """Those of all releases, the newest first."""
    return [
        inspect.signature(eval(f"lambda {text}: None"))
        for text in SIGNATURES[module, name].values()
    ]
