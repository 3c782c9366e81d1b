"""Published configurations of each family: transformers' logits from what is read, and each key of
what is written."""

import sys
import warnings

import pytest
import torch
from cases import data_of
from offenders import every
from safetensors.torch import load_file

from flashnas.architecture.huggingface import architecture_of_config
from flashnas.families.family import families, family_of
from flashnas.families.pieces import norm_eps
from flashnas.network.model import HybridLM

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
PUBLISHED = data_of("families/published")
EPS = ("norm_eps", "rms_norm_eps", "layer_norm_epsilon")
# of tokens, contexts and training
ELSEWHERE = {
    "architectures",
    "max_position_embeddings",
    "router_aux_loss_coef",
    "max_window_layers",
}


@pytest.fixture(autouse=True)
def classes_of_transformers(monkeypatch):
    """fla, once it was imported, has its own classes in the place of those of Mamba."""
    for mapping in (transformers.CONFIG_MAPPING, transformers.AutoModelForCausalLM._model_mapping):
        monkeypatch.setattr(mapping, "_extra_content", {})
    monkeypatch.setitem(sys.modules, "fla", None)  # takes seconds to load


def read(config, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant factors
        return architecture_of_config(config, name)


def with_factors(state, config, architecture):
    """The constant factors of Granite, which flashnas does not have, in its weights."""
    if config.model_type != "granitemoehybrid":
        return
    state["embedding.weight"] *= config.embedding_multiplier
    state["final_norm.weight"] /= config.embedding_multiplier * config.logits_scaling
    for n, spec in enumerate(architecture.canonical().operators):
        prefix = f"layers.{n}.mixer."
        for name, tensor in state.items():
            if name.startswith(prefix) and "out_proj" in name:
                tensor *= config.residual_multiplier
        if spec.kind == "a":
            places = {
                p: r for t in spec.tensors(architecture.hidden) for p, r in t.places().items()
            }
            (name,) = (t.name for t in spec.tensors(architecture.hidden) if "q" in t.places())
            state[prefix + name][places["q"]] *= config.attention_multiplier * spec.head_dim**0.5


@every(name=PUBLISHED)
@torch.no_grad()
def test_transformers_computes_what_is_read(tmp_path, name):
    case = PUBLISHED[name]
    data = {**case["config"], **case["small"]}
    architecture, family = read(dict(data), name), families()[case.get("names", name)]
    assert "names" in case or family_of(architecture) is family
    config = transformers.CONFIG_MAPPING[data["model_type"]](**data)
    for key in EPS:
        if hasattr(config, key):
            setattr(config, key, norm_eps(architecture))
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    for key, tensor in theirs.named_parameters():
        if tensor.ndim == 1 and not key.endswith(("A_log", "dt_bias")):
            tensor += 0.2 * torch.randn_like(tensor)
        elif key.endswith("dt_bias"):
            tensor.uniform_(-12.0, 1.0)  # time steps of 1e-5 to 1
        else:
            tensor *= 3
    theirs.save_pretrained(tmp_path / name)
    tensors = load_file(tmp_path / name / "model.safetensors")
    ours = HybridLM(architecture).eval()
    state = ours.state_dict()
    for piece in family.pieces(architecture):
        piece.back(tensors[piece.name], state)
    with_factors(state, config, architecture)
    tokens = torch.randint(384, (2, 40))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@every(name=families())
def test_what_is_written_has_each_key_of_what_was_read(name):
    case = PUBLISHED[name]
    for data in (case["config"], {**case["config"], **case["small"]}):
        if "layer_types" in case["small"] and "layer_types" not in data:
            continue  # the list itself is long
        made = transformers.CONFIG_MAPPING[data["model_type"]]
        written = families()[name].configuration(read(dict(data), name))
        before, after = (made(**config).to_dict() for config in (data, written))
        differing = {
            key: (before[key], after[key])
            for key in made().to_dict().keys() - ELSEWHERE  # others are not read
            if before[key] != after[key]
        }
        assert differing.keys() == set(case["differs"]), differing
