"""Folders that stock transformers loads as Nemotron-H: names, tokenizer, meta tokens, and what is
refused.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")

from networks import TEXT, make_network, make_source, write_tokenizer_json
from offenders import every
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.exporting.exporter import export_network
from flashnas.exporting.source import Source
from flashnas.formats import nemotron_h
from flashnas.formats.fitting import choose

M2, A, F = "m2(head_dim=16,state=16)", "a(head_dim=16,rope_share=0)", "f(relu2=true)"
WIDE = "m2(heads=6,head_dim=16,state=16,groups=2,bias=true,conv_bias=false)"


@pytest.mark.parametrize(
    "notation",
    [
        f"64(vocab=300): {M2} {F} {A} {M2} {F}",
        f"64(vocab=300,tied=false,meta=3): {A} {WIDE} {A} f(relu2=true,bias=true,intermediate=80)",
        f"64(vocab=300): {A} {F}",
    ],
)
def test_transformers_computes_what_the_network_does(notation, tmp_path):
    dtype = "bfloat16" if "bias" in notation else "float32"
    report = export_network(make_source(notation), "nemotron-h", tmp_path / "out", dtype=dtype)
    assert max(report["parity"].values()) < 1e-5
    assert report["notes"][0] == "64 of 64 greedy tokens are equal"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["hybrid_override_pattern"] == "".join(
        {"m2": "M", "a": "*", "f": "-"}[spec.kind]
        for spec in Architecture.parse(notation).operators
    )
    assert not any(
        "expert" in key for key in config
    )  # readers would take it for a mixture of experts
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}


def test_a_text_continues_as_in_flashnas_by_classes_of_transformers_alone(tmp_path):
    tokenizer = Tokenizer.from_file(str(write_tokenizer_json(tmp_path / "tokenizer.json")))
    notation = f"64(vocab=300,meta=3): {M2} {A} {F}"
    source = Source(make_network(notation), tokenizer, "made for a test")
    report = export_network(source, "nemotron-h", tmp_path / "out")
    assert (
        "the meta tokens are the ids 300 to 302, which the tokenizer puts in front of a text"
        in report["notes"]
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    for made in (model, model.config, loaded):
        assert type(made).__module__.split(".")[0] == "transformers"
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    tokens = loaded(TEXT[0], return_tensors="pt")
    read = tokens["input_ids"][0].tolist()
    continued = model.generate(**tokens, max_new_tokens=6, do_sample=False)[0].tolist()
    ids = tokenizer.encode(TEXT[0]).ids
    assert read == [300, 301, 302, *ids]
    network = make_network(notation)
    assert continued[len(read) :] == network.generate(torch.tensor([ids]), 6)[0].tolist()
    assert loaded.decode(read, skip_special_tokens=True) == TEXT[0]
    assert loaded(TEXT[0], add_special_tokens=False)["input_ids"] == ids


def test_meta_tokens_are_as_unlikely_as_the_least_likely_token(tmp_path):
    notation = f"64(vocab=300,meta=3): {M2} {A} {F}"
    export_network(make_source(notation), "nemotron-h", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert model.generation_config.suppress_tokens == [300, 301, 302]
    with torch.no_grad():
        likely = model(torch.arange(100, 200)[None]).logits.softmax(-1)
    assert float(likely[..., 300:].mean()) < float(likely[..., :300].mean(1).quantile(0.1))
    head = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]
    assert all(
        any(torch.equal(head[row], other) for other in head[:300]) for row in (300, 301, 302)
    )


@every(
    case=[
        (f"64: {M2} {F}", "no operator 'a'; it needs at least one"),
        ("64: a(head_dim=16)", "operator 0, 'a', has rope_share=1.0; it has 0.0"),
        (f"64: {A} f", "operator 1, 'f', has relu2=false; it has true"),
    ]
)
def test_what_the_model_lacks_is_named(case):
    notation, rule = case
    with pytest.raises(ExportError, match=f"cannot hold this network as Nemotron-H: {rule}$"):
        choose(Architecture.parse(notation), [nemotron_h.FORMAT], "transformers")
