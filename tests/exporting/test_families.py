"""Folders that stock transformers loads as a model of a family: numbers, names, tokenizer; and those
without weights.
"""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from cases import cases
from networks import TEXT, make_network, make_source, write_tokenizer_json
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ArchitectureError
from flashnas.exporting.exporter import export_network
from flashnas.exporting.source import Source, load_source
from flashnas.network.weights import save_model

M2, A, F = "m2(head_dim=16,state=16)", "a(head_dim=16,rope_share=0)", "f(relu2=true)"
GATED = "a(head_dim=32,heads=2,kv_heads=1,qk_norm=true,out_gate=true,rope_share=0.25)"
NORMED = "a(heads=4,head_dim=16,kv_heads=2,qk_norm=true)"
HYBRID = f"64(vocab=300): {M2} {A} {F}"


def check_export(title, notation, out):
    """Whether transformers computes what the network does, and flashnas what it reads back."""
    dtype = "bfloat16" if "bias=true" in notation else "float32"
    network, tokens = make_network(notation), torch.randint(300, (2, 33))
    report = export_network(make_source(notation), "hf", out, dtype=dtype)
    assert max(report["parity"].values()) < 1e-5
    line = f"transformers runs it as {title}; 64 of 64 greedy tokens are equal"
    assert report["notes"][0] == line
    config = json.loads((out / "config.json").read_text())
    assert f"The class is {config['architectures'][0]}." in (out / "README.md").read_text()
    if dtype == "float32":
        read = load_source(str(out)).network
        with torch.no_grad():
            torch.testing.assert_close(read(tokens), network(tokens), rtol=1e-4, atol=1e-5)
        if title != "NemotronH" or "tied=false" in notation:  # whose head is never tied
            assert load_architecture(out).hash == Architecture.parse(notation).hash
    return config


@pytest.mark.parametrize(("title", "notation"), cases("exporting", "in_transformers"))
def test_transformers_computes_what_the_network_does(title, notation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fla", None)  # takes seconds to load, and its models stay
    check_export(title, notation, tmp_path / "out")


@pytest.mark.slow
def test_kernels_that_need_a_gpu_are_not_used(tmp_path):
    """In a process that loads fla, where it is installed."""
    network = f"64(vocab=300): gd(head_dim=16) f {GATED} f"
    command = [sys.executable, "-m", "flashnas", "export", network, "--to", "hf"]
    subprocess.run([*command, "--init-seed", "0", "--out", "out"], cwd=tmp_path, check=True)


def test_a_network_of_no_family_has_the_class_of_flashnas(tmp_path):
    for number, text in enumerate(
        (f"64(vocab=300): d(head_dim=16) {F} {A}", f"64(meta=3): {A} {F}")
    ):
        export_network(make_source(text), "hf", out := tmp_path / str(number))
        assert json.loads((out / "config.json").read_text())["model_type"] == "flashnas"


def test_what_no_program_loads_is_said(tmp_path):
    network = f"64(vocab=300): {NORMED} f f {NORMED} f"
    notes = export_network(make_source(network), "hf", tmp_path / "out")["notes"]
    line = "cannot hold this network as transformer (Qwen3): operator 2, 'f', does not follow a"
    assert f"vLLM, SGLang, TensorRT-LLM or MLX {line} token mixer" in notes


def test_a_text_continues_as_in_flashnas_by_classes_of_transformers_alone(tmp_path):
    tokenizer = Tokenizer.from_file(str(write_tokenizer_json(tmp_path / "tokenizer.json")))
    source = Source(make_network(HYBRID), tokenizer, "made for a test")
    export_network(source, "hf", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    for made in (model, model.config, loaded):
        assert type(made).__module__.split(".")[0] == "transformers"
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    tokens = loaded(TEXT[0], return_tensors="pt")
    read = tokens["input_ids"][0].tolist()
    continued = model.generate(**tokens, max_new_tokens=6, do_sample=False)[0].tolist()
    ids = tokenizer.encode(TEXT[0]).ids
    assert read == ids
    network = make_network(HYBRID)
    assert continued[len(read) :] == network.generate(torch.tensor([ids]), 6)[0].tolist()
    assert loaded.decode(read, skip_special_tokens=True) == TEXT[0]
    assert loaded(TEXT[0], add_special_tokens=False)["input_ids"] == ids


# -- without weights -------------------------------------------------------------------------------


def test_a_folder_without_weights_has_its_configuration_alone(tmp_path):
    notation = f"2048: {'m2(head_dim=64) f ' * 40}a(rope_share=0) f"  # too long for a path
    found = fn.export(notation, to="hf", no_weights=True, dtype="bfloat16", out=tmp_path / "out")
    assert (found.parity, found.source) == ({}, "without weights")
    assert str(found).endswith("nothing was computed")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "generation_config.json", "README.md"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == ("granitemoehybrid", "bfloat16")
    assert load_architecture(tmp_path / "out").hash == found.hash
    card = (tmp_path / "out" / "README.md").read_text()
    assert "vllm bench latency --model out --load-format dummy" in card


def test_weights_and_a_tokenizer_give_a_folder_without_weights(tmp_path):
    words = write_tokenizer_json(tmp_path / "tokenizer.json")
    weights = save_model(tmp_path / "weights", make_network(HYBRID))
    found = fn.export(weights, to="hf", no_weights=True, tokenizer=str(words), out=tmp_path / "out")
    assert found.notation == Architecture.parse(HYBRID).notation
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.vocab_size, config.eos_token_id) == (300, 0)
    ids = Tokenizer.from_file(str(words)).encode(TEXT[0]).ids
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT[0])["input_ids"] == ids


def test_a_model_of_which_sizes_alone_are_read_is_not_exported(tmp_path, refused):
    config = {"model_type": "gpt_oss", "num_hidden_layers": 1, "hidden_size": 64, "head_dim": 16}
    file = tmp_path / "config.json"
    line = "of gpt_oss the sizes alone are read: it can be estimated, not converted or exported"
    file.write_text(json.dumps(config))
    for options in ("--no-weights", "--init-seed 0"):
        found = refused(f"export {file} --to hf {options} --out {tmp_path}/out")
        assert found == f"flashnas export: {file}:model_type: {line}\n"
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ArchitectureError, match=line):
        load_source(str(tmp_path))


def test_a_head_that_a_family_does_not_tie_is_said(tmp_path):
    for number, (tied, notes) in enumerate(
        [
            (
                "",
                ["NemotronH ties no head: the embedding is written twice, 76,800 parameters more"],
            ),
            ("tied=false,", []),
        ]
    ):
        network = f"256({tied}vocab=300): m2(head_dim=64,groups=8) a(head_dim=64,rope_share=0)"
        assert (
            fn.export(network, to="hf", no_weights=True, out=tmp_path / str(number)).notes == notes
        )


def test_what_is_asked_wrongly_without_weights_is_one_line(tmp_path, refused):
    out = f"--out {tmp_path}/out"
    for words, line in (
        (
            "'128: d f a f' --to hf --no-weights",
            "a plain checkpoint cannot hold this network as",
        ),
        ("'128: a f' --to gguf --no-weights", "--no-weights is for --to hf, without --init-seed"),
        ("'128: a f' --to hf --no-weights --init-seed 0", "--no-weights is for --to hf, without"),
    ):
        assert line in refused(f"export {words} {out}")
    assert not (tmp_path / "out").exists()
