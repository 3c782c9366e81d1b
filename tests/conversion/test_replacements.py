"""Operators that are trained in place of attention: their start, their training, their layouts."""

import itertools
import re
import shutil

import numpy as np
import pytest
import torch
from networks import write_tokenizer_json
from one_line import one_line
from pretrained import SMALL_CONVERSION, random_model

import flashnas as fn
from flashnas.base.errors import FlashnasError
from flashnas.conversion.blocks import BlockTraining
from flashnas.conversion.choices import REPLACEMENTS
from flashnas.conversion.replacements import from_attention
from flashnas.conversion.weights import load_pretrained
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


def training(teacher, folder, tokens=12_288):
    operators = teacher.architecture.operators
    torch.manual_seed(0)
    blocks = {n: from_attention(teacher, n, REPLACEMENTS["gd"](operators[n])) for n in (0, 2)}
    rows = np.random.default_rng(0).integers(300, size=(24, 256))
    return BlockTraining(teacher, "gd", blocks, (rows[:4], rows[4:]), tokens, "float32", folder)


def test_a_replacement_starts_from_the_weights_of_attention(teacher):
    attention, own = teacher.architecture.operators[0], teacher.blocks[0]
    hidden = teacher.architecture.hidden
    block = from_attention(teacher, 0, REPLACEMENTS["gd"](attention))
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
    whole = training(teacher, tmp_path / "whole")
    found = whole.train(lambda line: None, 1e9)
    errors = [error for _, error in found.curve]
    assert found.tokens == 12_288 or found.flat
    assert errors[-1] < errors[0] / 2

    part = training(teacher, tmp_path / "part")

    def stop(line):
        if "held-out" in line and len(part.trained.curve) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.train(stop, 0.0)
    resumed = training(teacher, tmp_path / "part")
    assert 0 < resumed.trained.tokens < 12_288
    again = resumed.train(lambda line: None, 1e9)
    assert again.curve == found.curve
    for n, block in whole.blocks.items():
        for own, other in zip(
            block.state_dict().values(), resumed.blocks[n].state_dict().values(), strict=True
        ):
            assert torch.equal(own, other)


def test_another_training_and_a_damaged_one_are_one_line(teacher, tmp_path):
    training(teacher, tmp_path / "out", 4096).train(lambda line: None, 1e9)
    assert re.search(
        "holds replacements of other layers or for another number of tokens",
        one_line(FlashnasError, training, teacher, tmp_path / "out", 8192),
    )
    (tmp_path / "out" / "state.json").write_text('{"layers": [0, 2]}')
    message = one_line(FlashnasError, training, teacher, tmp_path / "out", 4096)
    assert re.search("state.json.*trained", message)


@pytest.mark.slow
def test_a_conversion_trains_scores_and_writes_replacements(llama, texts, tmp_path):
    out, options = tmp_path / "run", {"data": str(texts), **OPTIONS}
    found = fn.convert(str(llama), out=out, **options)
    kinds = {single.kind for single in found.singles}
    assert kinds == {"a to none", "a to gd 2048"}
    (trained,) = found.replacements
    assert (trained.name, trained.tokens) == ("gd 2048", 2048)
    assert "gd 2048: trained on 2,048 of 2,048 tokens" in str(found)
    mixers = {
        spec.kind
        for answer in found.answers
        for spec in load_model(answer.weights).architecture.operators
    }
    assert mixers <= {"a", "gd", "f"}
    shutil.rmtree(out / "models")
    assert fn.convert(str(llama), out=out, **options).to_dict() == found.to_dict()


@pytest.mark.slow
@pytest.mark.usefixtures("llama_cpp_clock")
def test_llama_cpp_runs_a_qwen3_with_replacements(texts, tmp_path):
    random_model("qwen3", tmp_path / "qwen3", max_position_embeddings=4096)
    write_tokenizer_json(tmp_path / "qwen3" / "tokenizer.json")
    options = {
        **OPTIONS,
        "data": str(texts),
        "runtime": "llama.cpp",
        "weights": "f32",
        "workload": "chat",
    }
    found = fn.convert(str(tmp_path / "qwen3"), out=tmp_path / "run", **options)
    # it runs no Qwen3 without the attention of a layer
    assert {single.kind for single in found.singles} == {"a to gd 2048"}
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
        "a training needs 8: give more text",
        one_line(
            FlashnasError, fn.convert, str(llama), out=tmp_path / "run", data=str(texts), **OPTIONS
        ),
    )
