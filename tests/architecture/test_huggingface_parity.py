"""Configurations against transformers: the same parameters, the same defaults."""

import dataclasses
import json
import re
import warnings

import pytest
import torch
from cases import data_of
from offenders import every

from flashnas.architecture.huggingface import LACKING, architecture_from_hf
from flashnas.architecture.huggingface.config_json import defaults
from flashnas.families.family import families
from flashnas.families.pieces import norm_eps
from flashnas.network.model import HybridLM

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

TABLE = data_of("architecture/huggingface")
CASES = TABLE["parity"]
LEFT_OUT = {
    "gpt_oss": ("sinks", "router.bias", "gate_up_proj_bias", "down_proj_bias"),
    "gemma3": ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
    "gemma3_text": ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
    "granite_swa": ("sinks",),
    **dict.fromkeys(("olmo2", "olmo3", "olmoe"), ("q_norm.weight", "k_norm.weight")),
}
# of which transformers builds no network from defaults, or a large one
NO_DEFAULTS = "ministral", "nemotron_h", "qwen3_5_moe_text", "lfm2_moe"


def written(folder, data):
    path = folder / "config.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(autouse=True)
def classes_of_transformers(monkeypatch):
    """fla, once it was imported, has its own classes in the place of those of Mamba."""
    for mapping in (transformers.CONFIG_MAPPING, transformers.AutoModelForCausalLM._model_mapping):
        monkeypatch.setattr(mapping, "_extra_content", {})


def count_of_transformers(path, kind):
    """Unique parameters of the model that AutoModelForCausalLM takes for the type."""
    config = transformers.CONFIG_MAPPING[kind].from_pretrained(path.parent).get_text_config()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    biases = [each for each in model.named_buffers() if each[0].endswith("_bias")]
    return sum(
        tensor.numel()
        for name, tensor in [*model.named_parameters(), *biases]
        if not name.endswith(LEFT_OUT.get(kind, ()))
    )


@every(
    case=[
        *CASES,
        *((kind, {}) for kind in defaults() if kind not in NO_DEFAULTS),
    ]
)
def test_parameters_equal_those_of_transformers(tmp_path, case):
    """With the keys that are given, and with defaults alone. What LEFT_OUT names is not counted."""
    kind, keys = case
    path = written(tmp_path, {"model_type": kind, **keys})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = (architecture := architecture_from_hf(path)).params
    if kind.startswith("olmo"):
        params -= sum(2 * getattr(spec, "head_dim", 0) for spec in architecture.operators)
    assert params == count_of_transformers(path, kind)


@every(case=TABLE["published"])
def test_published_models_have_as_many_parameters(tmp_path, case):
    """All of them, and those that a token uses; within what a published figure is rounded by."""
    kind, keys, params, active, embedding = case
    path = written(tmp_path, {"model_type": kind, **keys})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        architecture = architecture_from_hf(path)
    assert architecture.params / 1e9 == pytest.approx(params, abs=0.06)
    assert architecture.active_params / 1e9 - embedding == pytest.approx(active, abs=0.06)


# names of the tensors of experts in transformers
IN_MEMORY = {
    "lfm2_moe": ("lfm2", "feed_forward.", {"in_proj": "experts.gate_up_proj"}),
    "nemotron_h": (
        "nemotron_h",
        "",
        {
            "up": "experts.up_proj",
            "shared_up": "shared_experts.up_proj",
            "shared_out_proj": "shared_experts.down_proj",
        },
    ),
}


@every(case=[case for case in CASES if case[0] in IN_MEMORY and "num_experts_per_tok" in case[1]])
@torch.no_grad()
def test_experts_with_sigmoids_compute_what_those_of_transformers_do(tmp_path, case):
    kind, keys = case
    path = written(tmp_path, {"model_type": kind, **keys})
    config = transformers.CONFIG_MAPPING[kind].from_pretrained(tmp_path)
    ours = HybridLM(architecture_from_hf(path)).eval()
    for key in ("norm_eps", "rms_norm_eps", "layer_norm_epsilon"):
        if hasattr(config, key):
            setattr(config, key, norm_eps(ours.architecture))
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    state = {}
    for name, tensor in theirs.state_dict().items():
        routes = name.endswith(("gate.weight", "expert_bias", "correction_bias"))
        if routes:  # so that no expert is chosen by a hair
            tensor.normal_(std=0.2)
        name = re.sub(r"(expert_bias|gate.e_score_correction_bias)$", "gate.bias", name)
        name = re.sub(r"(experts\.\w+_proj)$", r"\1.weight", name)
        state[name.replace("model.", "backbone.") if kind == "nemotron_h" else name] = tensor
    name, layer, names = IN_MEMORY[kind]
    family = families()[name]
    names = {"router": "gate", "out_proj": "experts.down_proj", **names}
    moe = {part: layer + name for part, name in names.items()}
    weights = dataclasses.replace(family.weights, names={**family.weights.names, "moe": moe})
    own = ours.state_dict()
    for piece in dataclasses.replace(family, weights=weights).pieces(ours.architecture):
        piece.back(state[piece.name], own)
    tokens = torch.randint(384, (2, 33))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)


@every(kind=["nemotron_h", "qwen3_next", "bamba", "granitemoehybrid"])
def test_a_configuration_that_transformers_writes_is_that_of_its_keys(tmp_path, kind):
    """A class writes all its keys, with their defaults."""
    keys = dict(CASES)[kind]
    given = architecture_from_hf(written(tmp_path, {"model_type": kind, **keys}))
    transformers.CONFIG_MAPPING[kind](**keys).save_pretrained(tmp_path)
    assert architecture_from_hf(tmp_path) == given


def test_every_model_type_is_counted():
    assert {kind for kind, _ in CASES} == set(defaults())
    assert not set(defaults()) & set(LACKING)


@every(kind=sorted(set(defaults()) - {"gemma3", "qwen3_5", "qwen3_5_moe"}))
def test_defaults_are_those_of_transformers(kind):
    cls = transformers.CONFIG_MAPPING[kind]
    theirs = {field.name: field.default for field in dataclasses.fields(cls)}
    built = cls()
    ours = defaults()[kind]
    if "rope_theta" in ours:
        theirs["rope_theta"] = built.rope_parameters["rope_theta"]
        theirs["partial_rotary_factor"] = built.rope_parameters.get("partial_rotary_factor")
    theirs.setdefault("sliding_window_pattern", 6)  # Gemma 3 reads it where it is given
    if "full_attention_interval" in ours:
        theirs["full_attention_interval"] = built.layer_types.index("full_attention") + 1
    theirs.setdefault(
        "head_dim", None
    )  # not a field of Qwen2 and SmolLM3, which read it where it is given
    assert {key: theirs[key] for key in ours} == ours
