"""What a config.json becomes, and the one line for each thing that is wrong with it."""

import json
import re

import pytest
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_from_hf
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ArchitectureError
from flashnas.cli.main import main

TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 9}
EXPERTS = {"num_experts": 6, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 48}
DELTA = {
    "full_attention_interval": 2,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
FULL = "full_attention"
UNTIED, TIED = "64(vocab=512,tied=false): ", "64(vocab=512): "


def written(folder, data):
    path = folder / "config.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@every(
    case=[
        ("llama", {}, UNTIED + "2x(a(heads=4,kv_heads=2,head_dim=16) f(intermediate=96))"),
        (
            "llama",
            {"rope_theta": 500000, "rope_scaling": LLAMA3},
            UNTIED + "2x(a(heads=4,kv_heads=2,head_dim=16,rope_theta=500000,rope_factor=8,"
            "rope_original=8192) f(intermediate=96))",
        ),
        (
            "llama",
            {"rope_parameters": {"type": "linear", "factor": 2, "rope_theta": 7}},
            UNTIED + "2x(a(heads=4,kv_heads=2,head_dim=16,rope_theta=7,rope_factor=2)"
            " f(intermediate=96))",
        ),
        (
            "mistral",
            {"sliding_window": 9},
            UNTIED + "2x(swa(heads=4,kv_heads=2,head_dim=16,window=9) f(intermediate=96))",
        ),
        (
            "qwen2",
            {**WINDOW, "max_window_layers": 1},
            UNTIED + "a(heads=4,kv_heads=2,head_dim=16,qkv_bias=true) f(intermediate=96)"
            " swa(heads=4,kv_heads=2,head_dim=16,qkv_bias=true,window=9) f(intermediate=96)",
        ),
        (
            "qwen3",
            {"tie_word_embeddings": True, "layer_types": [FULL] * 2},
            TIED + "2x(a(heads=4,kv_heads=2,qk_norm=true) f(intermediate=96))",
        ),
        (
            "smollm3",
            {"no_rope_layers": [1, 0]},
            TIED + "a(heads=4,kv_heads=2,head_dim=16,rope_theta=2e6) f(intermediate=96)"
            " a(heads=4,kv_heads=2,head_dim=16,rope_share=0) f(intermediate=96)",
        ),
        (
            "lfm2",
            {
                "block_ff_dim": 300,
                "layer_types": ["conv", FULL],
                "conv_L_cache": 4,
                "tie_embedding": False,
            },
            UNTIED + "conv(conv_size=4) f(intermediate=256)"
            " a(heads=4,kv_heads=2,head_dim=16,qk_norm=true,rope_theta=1e6) f(intermediate=256)",
        ),
        ("mamba", {"state_size": 8, "tie_word_embeddings": False}, UNTIED + "2x(m(state=8))"),
        (
            "mamba",
            {"time_step_rank": 5, "expand": 3, "use_bias": True, "use_conv_bias": False},
            TIED + "2x(m(expand=3,dt_rank=5,bias=true,conv_bias=false))",
        ),
        (
            "mixtral",
            {"sliding_window": 9, "num_local_experts": 6, "rope_theta": 1e4},
            UNTIED + "2x(swa(heads=4,kv_heads=2,head_dim=16,window=9)"
            " moe(experts=6,active=2,intermediate=96))",
        ),
        (
            "qwen2_moe",
            {**EXPERTS, "decoder_sparse_step": 2, "num_experts_per_tok": 3},
            UNTIED + "a(heads=4,kv_heads=2,head_dim=16,qkv_bias=true) f(intermediate=96)"
            " a(heads=4,kv_heads=2,head_dim=16,qkv_bias=true)"
            " moe(experts=6,active=3,intermediate=24,shared=48,shared_gate=true,normalise=false)",
        ),
        (
            "qwen2_moe",
            {"num_experts": 0, **WINDOW},
            UNTIED + "swa(heads=4,kv_heads=2,head_dim=16,qkv_bias=true,window=9) f(intermediate=96)"
            " a(heads=4,kv_heads=2,head_dim=16,qkv_bias=true) f(intermediate=96)",
        ),
        (
            "qwen3_moe",
            {
                **EXPERTS,
                "head_dim": 8,
                "mlp_only_layers": [0],
                "num_experts_per_tok": 6,
                "norm_topk_prob": True,
            },
            UNTIED + "a(heads=4,kv_heads=2,head_dim=8,qk_norm=true) f(intermediate=96)"
            " a(heads=4,kv_heads=2,head_dim=8,qk_norm=true)"
            " moe(experts=6,active=6,intermediate=24)",
        ),
        (
            "qwen3_5_moe",
            {
                "text_config": {
                    **TINY,
                    **DELTA,
                    **EXPERTS,
                    "num_local_experts": 6,
                    "num_experts_per_tok": 2,
                }
            },
            UNTIED + "gd(k_heads=2,expand_v=2,head_dim=8)"
            " moe(experts=6,active=2,intermediate=24,shared=48,shared_gate=true)"
            " a(heads=4,kv_heads=2,head_dim=16,qk_norm=true,out_gate=true,rope_share=0.25)"
            " moe(experts=6,active=2,intermediate=24,shared=48,shared_gate=true)",
        ),
        (
            "mamba2",
            {"num_heads": 2, "n_groups": 2, "time_step_limit": [0.0, {"__float__": "Infinity"}]},
            UNTIED + "2x(m2(groups=2))",
        ),
        (
            "nemotron_h",
            {
                "num_hidden_layers": 3,
                "hybrid_override_pattern": "M*-",
                "mamba_num_heads": 3,
                "n_groups": 3,
            },
            UNTIED + "m2(heads=3,groups=3,dt_min=0.001) a(heads=4,kv_heads=2,rope_share=0)"
            " f(intermediate=96,relu2=true)",
        ),
        (
            "qwen3_5",
            {"text_config": {**TINY, **DELTA}},
            UNTIED + "gd(k_heads=2,expand_v=2,head_dim=8) f(intermediate=96)"
            " a(heads=4,kv_heads=2,head_dim=16,qk_norm=true,out_gate=true,rope_share=0.25)"
            " f(intermediate=96)",
        ),
    ]
)
def test_networks(tmp_path, case):
    kind, keys, notation = case
    path = written(tmp_path, {"model_type": kind, **TINY, **keys})
    architecture = architecture_from_hf(path)
    assert architecture == load_architecture(tmp_path) == load_architecture(str(path))
    assert architecture.hash == Architecture.parse(notation).hash
    assert Architecture.parse(architecture.notation) == architecture


@every(
    case=[
        ("{", ":1: not valid JSON: Expecting property name"),
        ("[1]", ": the top level must be a mapping; got list"),
        ('{"a": 1, "a": 2}', ":a: duplicate key"),
        ("{}", ": a Hugging Face config needs the key 'model_type' (one of llama, mistral, "),
    ]
)
def test_what_is_no_configuration_gets_one_line(tmp_path, case):
    text, message = case
    path = written(tmp_path, text)
    line = one_line(ArchitectureError, load_architecture, str(path))
    assert line.startswith(f"{path}{message}"), line


@every(
    case=[
        (
            "lama",
            {},
            "model_type must be one of llama, mistral, qwen2, qwen3, smollm3, mixtral, lfm2,"
            " qwen2_moe, qwen3_moe, mamba, mamba2, nemotron_h, qwen3_5, qwen3_5_text, qwen3_5_moe,"
            " qwen3_5_moe_text, qwen3_next, bamba, granitemoehybrid, falcon_h1; got 'lama' (did you"
            " mean 'llama'?)",
        ),
        (
            "zamba2",
            {},
            "model_type: zamba2 has a transformer block that layers share, which flashnas lacks",
        ),
        (
            "bamba",
            {"mamba_n_heads": 3},
            "mamba_n_heads: heads of 42 channels must make up 128; got 3",
        ),
        (
            "falcon_h1",
            {"projectors_bias": True},
            "projectors_bias: flashnas lacks Mamba2 with a bias of one projection alone",
        ),
        (
            "mixtral",
            {"num_experts_per_tok": 9},
            "num_experts_per_tok: must be at most num_local_experts 8; got 9",
        ),
        (
            "mixtral",
            {"num_experts_per_tok": 1},
            "num_experts_per_tok: flashnas lacks a single expert per token whose probability"
            " counts as 1",
        ),
        (
            "mamba",
            {"time_step_rank": "full"},
            "time_step_rank: must be a whole number of at least 1; got 'full'",
        ),
        (
            "nemotron_h",
            {"hybrid_override_pattern": "M*-", "num_hidden_layers": 52},
            "num_hidden_layers: must be the number of layers that the pattern lists, 3; got 52",
        ),
        (
            "nemotron_h",
            {"hybrid_override_pattern": "ME"},
            "hybrid_override_pattern: flashnas lacks mixtures of ungated relu2 experts with a"
            " sigmoid router",
        ),
        (
            "nemotron_h",
            {"hybrid_override_pattern": "MX"},
            "hybrid_override_pattern: must be letters of M * - E; got 'MX'",
        ),
        (
            "nemotron_h",
            {"layers_block_type": ["mlp"] * 2, "mlp_hidden_act": "silu"},
            "mlp_hidden_act: flashnas lacks ungated feed-forward networks with the activation"
            " 'silu'; it has 'relu2'",
        ),
        (
            "llama",
            {"hidden_act": "gelu"},
            "hidden_act: flashnas lacks feed-forward networks with the activation 'gelu'; it has"
            " 'silu'",
        ),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers: must be at most 4096"),
        (
            "llama",
            {"num_attention_heads": 5},
            "num_attention_heads: must divide the hidden size 64; got 5",
        ),
        (
            "llama",
            {"num_key_value_heads": 3},
            "num_key_value_heads: must divide the 4 attention heads; got 3",
        ),
        ("llama", {"head_dim": 15}, "head_dim: flashnas lacks heads of an odd number of channels"),
        ("llama", {"mlp_bias": 1}, "mlp_bias: must be true or false; got 1"),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope_scaling.rope_type: flashnas lacks rotary positions of type 'yarn'; it has"
            " default, linear, llama3",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear"}},
            "rope_scaling.factor: must be a number of at least 1; got None",
        ),
        (
            "llama",
            {"rope_scaling": {**LLAMA3, "low_freq_factor": 2}},
            "rope_scaling.low_freq_factor: flashnas lacks llama3 positions with 2; it has 1",
        ),
        (
            "llama",
            {"rope_parameters": {FULL: {"rope_theta": 1e6}}},
            "rope_parameters: flashnas lacks rotary positions that differ between kinds of layers",
        ),
        (
            "qwen3",
            {"layer_types": [FULL, "sliding_attention"]},
            "layer_types: 'sliding_attention' needs use_sliding_window and sliding_window",
        ),
        (
            "qwen3",
            {"layer_types": [FULL]},
            "layer_types: must have one entry for each of the 2 layers; got 1",
        ),
        (
            "qwen3",
            {"layer_types": [FULL, "chunked_attention"]},
            "layer_types: flashnas lacks the layer type 'chunked_attention' in qwen3",
        ),
        (
            "mamba2",
            {"num_heads": 24},
            "num_heads: num_heads x head_dim must be expand x hidden_size = 128; got 24 x 64",
        ),
        (
            "mamba2",
            {"num_heads": 2, "time_step_limit": [0.0, 0.1]},
            "time_step_limit: flashnas lacks Mamba2 with a largest time step (0.1)",
        ),
        (
            "qwen3_5_text",
            {**DELTA, "linear_value_head_dim": 16},
            "linear_value_head_dim: flashnas lacks Gated DeltaNet with values of 16 channels and"
            " keys of 8",
        ),
        ("qwen3_5", {"text_config": 3}, "text_config: must be a mapping; got 3"),
    ]
)
def test_what_is_wrong_gets_one_line_with_file_and_key(tmp_path, case):
    kind, keys, message = case
    path = written(tmp_path, {"model_type": kind, **TINY, **keys})
    line = one_line(ArchitectureError, load_architecture, str(path))
    assert line.startswith(f"{path}:{message}"), line


@every(
    case=[
        (
            "granitemoehybrid",
            {"num_local_experts": 0, "shared_intermediate_size": 48, "residual_multiplier": 0.22},
            UNTIED + "2x(m2(head_dim=4,heads=32,state=256) f(intermediate=48))",
            "constant factors, which cost no time, are left out (residual_multiplier 0.22)",
        ),
        (
            "granitemoehybrid",
            {
                "layer_types": ["attention"] * 2,
                "attention_multiplier": 0.1,
                "num_local_experts": 3,
                "shared_intermediate_size": 48,
            },
            UNTIED + "2x(a(heads=4,kv_heads=2,head_dim=16,rope_share=0)"
            " moe(experts=3,active=2,intermediate=96,shared=48))",
            "constant factors, which cost no time, are left out (attention_multiplier 0.1)",
        ),
        (
            "falcon_h1",
            {"mamba_d_ssm": 32, "mamba_n_heads": 4, "ssm_multipliers": [1, 1, 1, 2, 1]},
            UNTIED + "2x(m2(head_dim=8,heads=4,state=256) a(heads=4,kv_heads=2,head_dim=16)"
            " f(intermediate=96))",
            "Mamba2 and attention are taken one after the other and not side by side, with norms of"
            " 192 parameters more; constant factors, which cost no time, are left out"
            " (ssm_multipliers [1, 1, 1, 2, 1])",
        ),
    ]
)
def test_an_approximation_is_named_in_one_line(tmp_path, case, capsys):
    kind, keys, notation, words = case
    path = written(tmp_path, {"model_type": kind, **TINY, "mamba_n_heads": 32, **keys})
    line = f"{path}:model_type: {kind} is read as an approximation: {words}"
    with pytest.warns(UserWarning, match=re.escape(line)):
        assert load_architecture(str(path)).hash == Architecture.parse(notation).hash
    assert main(["estimate", str(tmp_path), "--json"]) == 0
    found = capsys.readouterr()
    assert found.err == f"flashnas: {line}\n"
    assert json.loads(found.out)["params"] == Architecture.parse(notation).params


def test_a_factor_that_changes_nothing_is_no_deviation(tmp_path, recwarn):
    keys = {"layer_types": ["attention"] * 2, "attention_multiplier": 0.25}
    load_architecture(str(written(tmp_path, {"model_type": "granitemoehybrid", **TINY, **keys})))
    assert not recwarn
