"""LFM2's layout in other programs: transformers, its published configurations, and which programs
run what.
"""

import json

import pytest
import torch

pytest.importorskip("transformers")

from networks import make_source
from transformers import Lfm2Config, Lfm2ForCausalLM

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_from_hf
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import WeightsError
from flashnas.exporting.exporter import EXPORTS, export_network
from flashnas.exporting.source import load_source
from flashnas.formats.fitting import exports_of, refusal
from flashnas.formats.programs import FORMATS
from flashnas.study.config import PROGRAMS

A = "a(heads=4,kv_heads=2,head_dim=16,qk_norm=true,rope_theta=5000)"


@pytest.mark.parametrize(
    "notation",
    [f"64(vocab=300): conv f {A} f conv f", f"64(vocab=300,tied=false): {A} f conv(conv_size=4) f"],
)
def test_transformers_computes_what_the_network_does(notation, tmp_path):
    report = export_network(make_source(notation), "lfm2", tmp_path / "out")
    assert max(report["parity"].values()) < 1e-5
    assert report["notes"][0] == "64 of 64 greedy tokens are equal"
    assert architecture_from_hf(tmp_path / "out").hash == Architecture.parse(notation).hash


def test_a_model_of_transformers_is_computed_by_flashnas(tmp_path):
    """Configuration and weights in the other direction, with the epsilon of released models."""
    config = Lfm2Config(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        block_ff_dim=96,
        block_multiple_of=16,
        norm_eps=1e-2,
        full_attn_idxs=[1],
    )
    torch.manual_seed(0)
    theirs = Lfm2ForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, tokens = load_source(str(tmp_path)).network, torch.randint(300, (2, 33))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(
            {**data, "num_hidden_layers": 4, "layer_types": ["conv"] * 3 + ["full_attention"]}
        )
    )
    with pytest.raises(WeightsError, match=r"its weights lack model.layers.1.conv.in_proj.weight$"):
        load_source(str(tmp_path))


def test_programs_are_those_of_the_exporters():
    assert all(each.export in EXPORTS for each in FORMATS)
    assert {program for each in FORMATS for program in each.programs} == set(PROGRAMS)
    assert exports_of(load_architecture("LFM2-350M"), FORMATS) == {
        "llama.cpp": "gguf",
        "transformers": "lfm2",
    }
    assert exports_of(
        Architecture.parse("256: m2(dt_min=0) a(rope_share=0) f(relu2=true)"), FORMATS
    ) == {
        "llama.cpp": "gguf",
        "transformers": "nemotron-h",
        "vllm": "nemotron-h",
    }
    assert exports_of(load_architecture("Nemotron-Flash-1B"), FORMATS) == {}


@pytest.mark.parametrize(
    ("notation", "rule"),
    [
        (
            f"96: conv f {A} f",
            "operator 2, 'a', has heads x head_dim = 4 x 16; it needs the width, 96",
        ),
        (
            f"64: conv(conv_size=3) f conv(conv_size=4) f {A} f",
            "operator 2, 'conv', has conv_size=4 and an earlier one 3; one value holds for all"
            " 'conv'",
        ),
    ],
)
def test_what_lfm2_lacks_is_named(notation, rule):
    for program, name in (("llama.cpp", "lfm2"), ("transformers", "LFM2")):
        assert (
            refusal(Architecture.parse(notation), FORMATS, program)
            == f"{program} cannot hold this network as {name}: {rule}"
        )
