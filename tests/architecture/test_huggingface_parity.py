"""Configurations against transformers: the same parameters, the same defaults."""

import dataclasses
import json
import re
import sys
import warnings

import pytest
import torch
from offenders import every

from flashnas.architecture.huggingface import LACKING, MODEL_TYPES, architecture_from_hf
from flashnas.architecture.huggingface.config_json import defaults

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SMALL = {"vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 4}
HEADS = {**SMALL, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
DELTA = {
    **HEADS,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 3,
}
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 56,
}
NEMOTRON = {
    **{key: value for key, value in HEADS.items() if key != "num_hidden_layers"},
    "head_dim": 24,
    "mamba_num_heads": 6,
    "mamba_head_dim": 20,
    "n_groups": 2,
    "ssm_state_size": 16,
    "conv_kernel": 3,
}
BAMBA = {**HEADS, "mamba_n_heads": 8, "mamba_d_state": 24, "mamba_n_groups": 2, "mamba_d_conv": 3}
MIXED = ["mamba", "attention", "linear_attention", "full_attention"]
CASES = [
    ("llama", {**HEADS, "num_key_value_heads": None, "tie_word_embeddings": True}),
    ("llama", {**HEADS, "attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    ("mistral", {**HEADS, "sliding_window": None, "head_dim": 8, "tie_word_embeddings": True}),
    (
        "qwen2",
        {
            **HEADS,
            "head_dim": 24,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 3,
        },
    ),
    ("qwen3", {**HEADS, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    (
        "smollm3",
        {
            **HEADS,
            "pad_token_id": 0,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    (
        "mixtral",
        {
            **HEADS,
            "head_dim": 24,
            "num_experts": 5,
            "sliding_window": 9,
            "tie_word_embeddings": True,
        },
    ),
    (
        "qwen2_moe",
        {**HEADS, **EXPERTS, "decoder_sparse_step": 2, "mlp_only_layers": [3], "qkv_bias": False},
    ),
    (
        "qwen3_moe",
        {**HEADS, **EXPERTS, "head_dim": 24, "attention_bias": True, "mlp_only_layers": [0, 2]},
    ),
    (
        "mamba",
        {
            **SMALL,
            "state_size": 12,
            "expand": 3,
            "conv_kernel": 3,
            "time_step_rank": 7,
            "use_bias": True,
            "use_conv_bias": False,
            "tie_word_embeddings": False,
        },
    ),
    (
        "mamba2",
        {
            **SMALL,
            "num_heads": 12,
            "head_dim": 16,
            "expand": 3,
            "state_size": 20,
            "n_groups": 3,
            "conv_kernel": 2,
            "use_bias": True,
            "use_conv_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    ("nemotron_h", {**NEMOTRON, "hybrid_override_pattern": "M-M*-"}),
    (
        "nemotron_h",
        {
            **NEMOTRON,
            "layers_block_type": ["mamba", "attention", "mlp"],
            "use_bias": True,
            "mlp_bias": True,
            "use_conv_bias": False,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
    ),
    ("qwen3_next", {**DELTA, "num_experts": 0}),
    (
        "qwen3_next",
        {
            **DELTA,
            "mlp_only_layers": [0, 1, 2, 3],
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    ("qwen3_next", {**DELTA, **EXPERTS}),
    ("qwen3_next", {**DELTA, **EXPERTS, "decoder_sparse_step": 2}),
    ("qwen3_5_moe_text", {**DELTA, **EXPERTS}),
    ("qwen3_5_moe", {"text_config": {**DELTA, **EXPERTS, "full_attention_interval": 2}}),
    ("qwen3_5_text", DELTA),
    ("qwen3_5_text", {**DELTA, "full_attention_interval": 2, "linear_num_value_heads": 2}),
    ("qwen3_5", {"text_config": {**DELTA, "tie_word_embeddings": True}}),
    (
        "qwen3_5",
        {
            "text_config": {**DELTA, "layer_types": ["full_attention"] + ["linear_attention"] * 3},
            "tie_word_embeddings": True,
        },
    ),
    ("lfm2", {**HEADS, "block_ff_dim": 200, "full_attn_idxs": [1, 3]}),
    (
        "lfm2",
        {
            **HEADS,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "conv_L_cache": 4,
            "block_auto_adjust_ff_dim": False,
            "tie_embedding": False,
        },
    ),
    (
        "lfm2",
        {**HEADS, "full_attn_idxs": [0], "block_ffn_dim_multiplier": 1.5, "block_multiple_of": 32},
    ),
    ("bamba", {**BAMBA, "attn_layer_indices": [1], "mlp_bias": True, "mamba_proj_bias": True}),
    (
        "granitemoehybrid",
        {**BAMBA, "layer_types": MIXED, "num_local_experts": 0, "shared_intermediate_size": 72},
    ),
    (
        "granitemoehybrid",
        {
            **BAMBA,
            "layers_block_type": MIXED,
            "num_local_experts": 5,
            "shared_intermediate_size": 72,
            "position_embedding_type": "rope",
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    ("falcon_h1", {**BAMBA, "mamba_d_ssm": 96, "mamba_rms_norm": True, "mlp_bias": True}),
    (
        "falcon_h1",
        {
            **BAMBA,
            "mamba_d_ssm": None,
            "mamba_d_head": 16,
            "head_dim": 24,
            "attention_bias": True,
            "mamba_proj_bias": True,
            "projectors_bias": True,
        },
    ),
]


def written(folder, data):
    path = folder / "config.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(autouse=True)
def without_fla(monkeypatch):
    """fla takes seconds to import and puts its own Mamba2 in the place of transformers'."""
    if "fla" not in sys.modules:
        monkeypatch.setitem(sys.modules, "fla", None)


def count_of_transformers(path, kind):
    """Unique parameters of the model that AutoModelForCausalLM takes for the type."""
    config = transformers.CONFIG_MAPPING[kind].from_pretrained(path.parent).get_text_config()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


@every(
    case=[
        *CASES,
        *((kind, {}) for kind in MODEL_TYPES if kind not in ("nemotron_h", "qwen3_5_moe_text")),
    ]
)
def test_parameters_equal_those_of_transformers(tmp_path, case):
    """With the keys that are given, and with defaults alone; where norms are added, a warning says
    with how many parameters."""
    kind, keys = case
    path = written(tmp_path, {"model_type": kind, **keys})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        params = architecture_from_hf(path).params
    added = re.search(r"norms of ([\d,]+) parameters more", " ".join(str(w.message) for w in said))
    assert bool(added) is (kind == "falcon_h1")
    more = int(added[1].replace(",", "")) if added else 0
    assert params - more == count_of_transformers(path, kind)


@every(kind=["nemotron_h", "qwen3_next", "bamba", "granitemoehybrid", "falcon_h1"])
def test_a_configuration_that_transformers_writes_is_that_of_its_keys(tmp_path, kind):
    """A class writes all its keys, with their defaults."""
    keys = dict(CASES)[kind]
    given = architecture_from_hf(written(tmp_path, {"model_type": kind, **keys}))
    transformers.CONFIG_MAPPING[kind](**keys).save_pretrained(tmp_path)
    assert architecture_from_hf(tmp_path) == given


def test_every_model_type_is_counted():
    assert {kind for kind, _ in CASES} == set(MODEL_TYPES) == set(defaults())
    assert not set(MODEL_TYPES) & set(LACKING)


@every(kind=sorted(set(MODEL_TYPES) - {"qwen3_5", "qwen3_5_moe"}))
def test_defaults_are_those_of_transformers(kind):
    cls = transformers.CONFIG_MAPPING[kind]
    theirs = {field.name: field.default for field in dataclasses.fields(cls)}
    built = cls()
    ours = defaults()[kind]
    if "rope_theta" in ours:
        theirs["rope_theta"] = built.rope_parameters["rope_theta"]
        theirs["partial_rotary_factor"] = built.rope_parameters.get("partial_rotary_factor")
    if "full_attention_interval" in ours:
        theirs["full_attention_interval"] = built.layer_types.index("full_attention") + 1
    theirs.setdefault(
        "head_dim", None
    )  # not a field of Qwen2 and SmolLM3, which read it where it is given
    assert {key: theirs[key] for key in ours} == ours
