"""Pretrained models: what transformers computes from a checkpoint, the network computes, too."""

import json
import shutil

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from networks import write_tokenizer_json
from one_line import one_line
from pretrained import MODELS, random_model, write_gguf
from tokenizers import Tokenizer

import flashnas as fn
from flashnas.base.errors import FlashnasError
from flashnas.exporting.source import load_source
from flashnas.families.load_pretrained import load_pretrained


def difference(network, model):
    """The largest difference of logits, of the largest logit."""
    tokens = torch.randint(300, (2, 70), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = network(tokens), model(tokens).logits
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers_gives_the_same_logits(name, tmp_path):
    model = random_model(name, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert difference(load_pretrained(tmp_path).network, model) < 1e-5


def test_the_tokenizer_is_that_of_the_folder(tmp_path):
    random_model("llama", tmp_path)
    tokenizer = Tokenizer.from_file(str(write_tokenizer_json(tmp_path / "tokenizer.json")))
    source = load_source(str(tmp_path))
    assert source.tokenizer.to_str() == tokenizer.to_str()
    assert source.folder == tmp_path


def test_a_folder_in_shards_is_evaluated(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "model")
    (tmp_path / "text.txt").write_text("the state of the union " * 20)
    found = fn.evaluate(str(tmp_path / "model"), text=str(tmp_path / "text.txt"))
    assert found.score["tokens"] > 20
    assert (tmp_path / "model" / "eval.json").is_file()


def without_weights(folder):
    for file in folder.glob("*.safetensors"):
        file.unlink()


def one_layer_more(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))


def one_layer_less(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))


def of_type(kind):
    return lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": kind}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_weights, "holds no weights"),
        (one_layer_more, "its weights lack model.layers.3.input_layernorm.weight"),
        (one_layer_less, "holds model.layers.2.input_layernorm.weight, which"),
        (of_type("olmo2"), "olmo2 has norms after attention"),
        (of_type("mamba2"), "lfm2; got 'mamba2'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(damage, words, tmp_path):
    random_model("llama", tmp_path)
    damage(tmp_path)
    assert words in one_line(FlashnasError, lambda: load_pretrained(tmp_path).network)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_gguf_file_gives_the_logits_that_transformers_reads_from_it(kind, tmp_path):
    pytest.importorskip("gguf")
    random_model(kind, tmp_path / "model", rms_norm_eps=1e-2)
    words = Tokenizer.from_file(str(write_tokenizer_json(tmp_path / "tokenizer.json")))
    write_gguf(kind, tmp_path / "model", tmp_path / "model.gguf", words)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    ).eval()
    read = load_pretrained(tmp_path / "model.gguf")
    assert difference(read.network, theirs) < 1e-5
    assert read.tokenizer.encode("the state").ids == words.encode("the state").ids
    assert load_source(str(tmp_path / "model.gguf")).folder is None


def test_a_file_that_is_no_gguf_is_refused_in_one_line(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"no model")
    words = one_line(FlashnasError, load_pretrained, tmp_path / "model.gguf")
    assert "not a readable GGUF file" in words
