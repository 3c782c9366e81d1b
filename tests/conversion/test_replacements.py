"""Operators that are trained in place of attention: their start, their training, their layouts."""

import itertools
import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import write_tokenizer_json
from one_line import one_line
from pretrained import SMALL_CONVERSION, random_model

import flashnas as fn
from flashnas.base.errors import FlashnasError
from flashnas.conversion.choices import REPLACEMENTS, Choice
from flashnas.conversion.from_attention import starting_network
from flashnas.conversion.replacements import FOLDER, read_replacements, train_replacements
from flashnas.data.dataset import Dataset
from flashnas.data.scored_text import NO_TABLE
from flashnas.families.load_pretrained import load_pretrained
from flashnas.network.weights import load_model

OPTIONS = {
    **SMALL_CONVERSION,
    "budget_ms": "95%",
    "keep": ["f"],
    "windows": (),
    "replacements": ["gd"],
    "replacement_tokens": 2048,
}


@pytest.fixture(scope="module")
def teacher(llama):
    return load_pretrained(llama).network.requires_grad_(False)


def replaced(teacher, *layers):
    operators = teacher.architecture.operators
    return [Choice(n, "gd", REPLACEMENTS["gd"](operators[n])) for n in layers]


def training(teacher, out, tokens=12_288, layers=(0, 2), say=lambda line: None):
    """The training of replacements on random tokens, in a folder: its figures and the layers."""
    rows = np.random.default_rng(0).integers(300, size=(24, 256))
    out.mkdir(exist_ok=True)
    write_tokenizer_json(out / "tokenizer.json")
    parts = {"train": rows[4:].ravel(), "validation": rows[:4].ravel(), "validation_bytes": 1}
    dataset = Dataset(folder=out, source="random", vocab=NO_TABLE, notes=(), **parts)
    config = SimpleNamespace(out=out, replacement_tokens=tokens, device="cpu")
    text = SimpleNamespace(context=256, training_text=lambda folder, tokens: dataset)
    choices = replaced(teacher, *layers)
    found = train_replacements(config, teacher, choices, text, "float32", say)
    return found, read_replacements(out / FOLDER, choices)


def test_a_replacement_starts_from_the_weights_of_attention(teacher):
    attention, own = teacher.architecture.operators[0], teacher.blocks[0]
    hidden = teacher.architecture.hidden
    (block,) = starting_network(teacher, replaced(teacher, 0))[0].blocks
    x = torch.randn(1, 1, hidden)
    q, k, v = own.mixer.in_proj(own.norm(x)).split(
        attention.named_tensors(hidden)["in_proj.weight"].rows(), -1
    )
    heads = [part.unflatten(-1, (-1, attention.head_dim)) for part in (q, k, v)]
    times = attention.heads // attention.kv_heads
    expected = torch.cat([heads[0], *(part.repeat_interleave(times, -2) for part in heads[1:])], -2)
    read = block.mixer.in_proj(block.norm(x))[..., : expected.flatten(-2).shape[-1]]
    torch.testing.assert_close(read, expected.flatten(-2))
    torch.testing.assert_close(block.mixer.out_proj.weight, own.mixer.out_proj.weight)


@pytest.mark.slow
def test_training_lowers_the_held_out_error_and_goes_on_where_it_was(teacher, tmp_path):
    found, blocks = training(teacher, tmp_path / "whole")
    errors = [error for _, error in found.curve]
    assert found.tokens == 12_288
    assert errors[-1] < errors[0] / 2

    said = []

    def stop(line):
        said.append(line)
        if "held-out error" in line and len(said) > 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training(teacher, tmp_path / "part", say=stop)
    again, resumed = training(teacher, tmp_path / "part", say=said.append)
    assert any("continuing after step" in line for line in said)
    assert again.curve == found.curve
    for key, block in blocks.items():
        for own, other in zip(block.parameters(), resumed[key].parameters(), strict=True):
            assert torch.equal(own, other)


def test_each_layer_learns_from_its_own_layer_alone(teacher):
    """The loss of two layers is the mean of those of each; nothing but the layers has gradients; and
    none starts worse than nothing."""
    choices = replaced(teacher, 2, 10)
    network, loss = starting_network(teacher, choices)
    tokens_BT = torch.randint(300, (2, 64))
    states = [teacher.embed(tokens_BT)]
    states += itertools.accumulate(teacher.blocks, lambda x, block: block(x)[0], initial=states[0])
    errors = []
    for choice, block in zip(choices, network.blocks, strict=True):
        before, after = states[choice.layer + 1], states[choice.layer + 2]
        errors.append((block(before)[0] - after).square().sum() / (after - before).square().sum())
    whole = loss(network, tokens_BT, tokens_BT)
    torch.testing.assert_close(whole, sum(errors) / 2, rtol=1e-4, atol=1e-6)
    whole.backward()
    moved = {name for name, tensor in network.named_parameters() if tensor.grad is not None}
    assert moved == {name for name, _ in network.named_parameters() if ".mixer." in name}
    with torch.no_grad():
        network.blocks[0].mixer.out_proj.weight.mul_(30)
        assert loss(network, tokens_BT, tokens_BT) > 1
        loss.fit_scales(network, tokens_BT)
        assert loss(network, tokens_BT, tokens_BT) < 1


def test_another_training_in_its_folder_is_one_line(teacher, tmp_path):
    training(teacher, tmp_path, 4096)
    message = one_line(FlashnasError, training, teacher, tmp_path, 4096, (0, 4))
    assert "question.layers" in message


@pytest.mark.slow
def test_a_conversion_trains_scores_and_writes_replacements(llama, texts, tmp_path):
    out, options = tmp_path / "run", {"data": str(texts), **OPTIONS}
    found = fn.convert(str(llama), out=out, **options)
    kinds = {single.kind for single in found.singles}
    assert kinds == {"a to none", "a to gd"}
    assert found.replacements.tokens == 2048
    assert "Replacements were trained on 2,048 tokens" in str(found)
    mixers = {
        spec.kind
        for answer in found.answers
        for spec in load_model(answer.weights).architecture.operators
    }
    assert mixers <= {"a", "gd", "f"}
    shutil.rmtree(out / "models")
    assert fn.convert(str(llama), out=out, **options).to_dict() == found.to_dict()


@pytest.mark.slow
def test_llama_cpp_loads_a_qwen3_with_replacements(texts, tmp_path):
    random_model("qwen3", tmp_path / "qwen3", max_position_embeddings=4096)
    write_tokenizer_json(tmp_path / "qwen3" / "tokenizer.json")
    options = {**OPTIONS, "data": str(texts), "runtime": "llama.cpp", "max_kl": 9.0}
    found = fn.convert(str(tmp_path / "qwen3"), out=tmp_path / "run", **options)
    # it loads no Qwen3 without the attention of a layer
    assert {single.kind for single in found.singles} == {"a to gd"}
    exported = fn.export(found.answers[0].weights, to="gguf", type="f32", out=tmp_path / "gguf")
    assert max(exported.parity.values()) < 1e-4
    assert "llama.cpp runs it as qwen35" in exported.notes[0]


def test_the_text_must_suffice_for_training(llama, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    words_of_four_letters = ["".join(letters) for letters in itertools.product("aeou", repeat=4)]
    for number in range(14):
        words = np.random.default_rng(number).choice(words_of_four_letters, 600)
        (texts / f"{number}.txt").write_text(" ".join(words))
    assert re.search(
        r"8 are needed \(a training beyond those that are scored, 4 held out\)",
        one_line(
            FlashnasError, fn.convert, str(llama), out=tmp_path / "run", data=str(texts), **OPTIONS
        ),
    )
