"""`flashnas export` from the command line: what it writes and what it refuses."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

pytest.importorskip("transformers")

from networks import MIXED, TEXT, make_network, write_tokenizer_json
from transformers import AutoModelForCausalLM, AutoTokenizer

from flashnas.cli.main import main
from flashnas.export.transformers import parity
from flashnas.network.weights import save_model


@pytest.fixture
def trained(tmp_path):
    text = write_tokenizer_json(tmp_path / "tokenizer.json").read_text()
    return save_model(tmp_path / "final", make_network(MIXED), tokenizer_json=text)


def refused(capsys, *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    return capsys.readouterr().err


def test_trained_weights_and_their_tokenizer_load_and_generate(trained, tmp_path, capsys):
    assert main(["export", str(trained), "--to", "hf", "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["source"].startswith("trained weights, sha256 ")
    assert report["notes"] == []
    assert sorted(report["parity"]) == ["cached_decode", "logits", "padded_batch"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert report["notation"] in card
    assert "import flashnas.export.transformers" in card
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(TEXT, padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).unique().numel() == 2  # padded
    together = model.generate(**batch, max_new_tokens=4, do_sample=False)
    network = make_network(MIXED)
    for row, text in enumerate(TEXT):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        alone = network.generate(torch.tensor([tokenizer(text)["input_ids"]]), 4)[0]
        assert torch.equal(together[row, -4:], alone)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0


def test_drawn_weights_are_the_seeds_and_said_to_be_drawn(tmp_path, capsys):
    arguments = ["export", "64(vocab=97): m2(head_dim=16,state=16) f", "--to", "hf", "--init-seed", "7"]
    for name in ("a", "b"):
        assert main([*arguments, "--out", str(tmp_path / name), "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "bfloat16, untrained weights, drawn with seed 7" in printed
    assert "note: no tokenizer written" in printed
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_what_is_asked_wrongly_is_one_line(trained, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    small = "64(vocab=97): f"
    assert "is an architecture without weights" in refused(capsys, small, "--to", "hf", *out)
    assert "leave out --init-seed" in refused(capsys, str(trained), "--to", "hf", "--init-seed", "1", *out)
    drawn = [small, "--init-seed", "1"]
    assert "--to must be one of hf, nemotron-flash; got 'gguf'" in refused(capsys, *drawn, "--to", "gguf", *out)
    assert "--dtype must be one of" in refused(capsys, *drawn, "--to", "hf", "--dtype", "int8", *out)
    assert "--raw-logits is for" in refused(capsys, *drawn, "--to", "hf", "--raw-logits", *out)
    assert "exists and is not empty" in refused(capsys, *drawn, "--to", "hf", "--out", str(trained))
    tokenizer = str(trained / "tokenizer.json")
    assert "the architecture's vocabulary ends at 96" in refused(capsys, *drawn, "--to", "hf", "--tokenizer",
                                                                 tokenizer, *out)
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_is_not_left_behind(trained, tmp_path, capsys, monkeypatch):
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    message = refused(capsys, str(trained), "--to", "hf", "--out", str(tmp_path / "out"))
    assert "does not compute what the original does" in message
    assert sorted(tmp_path.iterdir()) == before


def test_without_transformers_the_extra_is_named(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
    message = refused(capsys, "64(vocab=97): f", "--init-seed", "1", "--to", "hf", "--out", str(tmp_path / "out"))
    assert "pip install 'flashnas[export]'" in message
