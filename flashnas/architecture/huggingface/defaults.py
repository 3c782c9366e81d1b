"""The defaults of transformers 5.24 for each key that is read, by model type; a test compares them with it."""

from typing import Any

_ATTENTION = {"hidden_act": "silu", "num_attention_heads": 32, "num_hidden_layers": 32, "hidden_size": 4096,
              "tie_word_embeddings": False, "head_dim": None}
_ROPE = {"max_position_embeddings": 32768, "rope_theta": 10000.0, "partial_rotary_factor": None}
_DELTA = {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
          "linear_num_key_heads": 16, "linear_num_value_heads": 32, "partial_rotary_factor": 0.25,
          "full_attention_interval": 4, "num_attention_heads": 16, "head_dim": 256, "attention_bias": False}

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {**_ATTENTION, **_ROPE, "vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": None,
              "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
    "mistral": {**_ATTENTION, **_ROPE, "vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
                "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": {**_ATTENTION, **_ROPE, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
              "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {**_ATTENTION, **_ROPE, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
              "head_dim": 128, "attention_bias": False, "use_sliding_window": False, "sliding_window": 4096,
              "max_window_layers": 28},
    "smollm3": {**_ATTENTION, **_ROPE, "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008,
                "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
                "rope_theta": 2000000.0, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
                "use_sliding_window": False, "sliding_window": None, "no_rope_layer_interval": 4},
    "mamba2": {"vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64, "num_heads": 128, "head_dim": 64,
               "state_size": 128, "expand": 2, "conv_kernel": 4, "n_groups": 8, "use_bias": False,
               "use_conv_bias": True, "hidden_act": "silu", "tie_word_embeddings": False},
    "nemotron_h": {"vocab_size": 131072, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
                   "head_dim": 128, "intermediate_size": 21504, "mlp_hidden_act": "relu2", "mlp_bias": False,
                   "ssm_state_size": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "mamba_hidden_act": "silu",
                   "n_groups": 8, "conv_kernel": 4, "time_step_min": 0.001, "use_conv_bias": True, "use_bias": False},
    "qwen3_5": {},
    "qwen3_5_text": {**_ATTENTION, **_ROPE, **_DELTA, "vocab_size": 248320, "intermediate_size": 12288,
                     "num_key_value_heads": 4},
    "qwen3_next": {**_ATTENTION, **_ROPE, **_DELTA, "vocab_size": 151936, "hidden_size": 2048,
                   "intermediate_size": 5632, "num_hidden_layers": 48, "num_key_value_heads": 2, "num_experts": 512,
                   "decoder_sparse_step": 1},
    "zamba2": {"vocab_size": 32000, "hidden_size": 2560, "tie_word_embeddings": True, "mamba_d_state": 64,
               "mamba_d_conv": 4, "mamba_expand": 2, "mamba_ngroups": 1, "n_mamba_heads": 8,
               "add_bias_linear": False, "time_step_min": 0.001},
}
