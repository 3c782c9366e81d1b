"""Configurations against transformers: the same parameters, the same defaults."""

import dataclasses
import json
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from offenders import every

from flashnas.architecture.huggingface import LACKING, MODEL_TYPES, architecture_from_hf
from flashnas.architecture.huggingface.config_json import defaults

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

TABLE = yaml.safe_load(Path(__file__).with_name("huggingface.yaml").read_text())
CASES = TABLE["parity"]


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
