"""`flashnas train WEIGHTS --distill TEACHER`: converted weights learn from the model."""

import re
import shutil

import pytest
import torch
import yaml
from cases import cases
from networks import write_tokenizer_json
from one_line import one_line
from pretrained import random_model

import flashnas as fn
from flashnas.base.errors import FlashnasError
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.load import Conversion
from flashnas.network.weights import load_model, save_model
from flashnas.training.checkpoint import checkpoints

RECIPE = fn.Recipe(
    width_factor=1,
    sequence_tokens=64,
    batch_sequences=2,
    tokens=2048,
    validation_tokens=256,
    curve_tokens=128,
    curve_points=2,
    optimizer="adamw",
    adamw_lr=0.0005,
    dtype="float32",
)


@pytest.fixture(scope="session")
def weights(llama, texts, tmp_path_factory):
    """The model without its first attention, as `flashnas convert` writes an answer."""
    out = tmp_path_factory.mktemp("weights") / "run"
    sizes = {"context": 256, "documents": 4, "prompts": 2}
    config = ConvertConfig(model=str(llama), data=str(texts), calibration="paper", out=out, **sizes)
    out.mkdir()
    conversion = Conversion(config, lambda line: None, lambda *counts: None)
    layout = next((choice,) for choice in conversion.choices if choice.spec is None)
    network = conversion.student(0).network(layout)
    words = conversion.text.tokenizer.to_str()
    return save_model(out / "models" / "1ms", network, tokenizer_json=words)


def heal(weights, llama, texts, out, **options):
    options = {
        "data": str(texts),
        "distill": str(llama),
        "recipe": RECIPE,
        "threads": 1,
        "out": out,
        **options,
    }
    return fn.train(str(weights), **options)


@pytest.fixture(scope="session")
def healed(weights, llama, texts, tmp_path_factory):
    """By the folder of the conversion, which has one answer."""
    out = tmp_path_factory.mktemp("healed") / "training"
    notes = []

    class Notes:
        def note(self, text):
            notes.append(text)

        def update(self, step, of_steps):
            pass

    return heal(weights.parents[1], llama, texts, out, progress=Notes()), out, notes


@pytest.mark.slow
def test_healing_starts_from_the_weights_and_nears_the_teacher(healed, weights):
    found, out, notes = healed
    assert found.before["kl"] > 0.01
    assert found.after["kl"] < 0.9 * found.before["kl"]
    # the random model recalls nothing
    assert (found.before["probes"], "of the teacher's recall" in str(found)) == (0, False)
    network, start = load_model(out / "final"), load_model(weights)
    assert network.architecture == start.architecture
    moved = [
        (own - before).abs().max().item()
        for own, before in zip(network.parameters(), start.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.1
    assert any("that of the distillation" in note for note in notes)


@pytest.mark.slow
def test_healing_without_a_step_to_learn_from_is_the_start(weights, llama, texts, tmp_path):
    still = fn.Recipe(**{**RECIPE.to_dict(), "adamw_lr": 1e-12, "tokens": 128})
    found = heal(weights, llama, texts, tmp_path / "still", recipe=still)
    assert found.after["kl"] == pytest.approx(found.before["kl"], rel=1e-4)


@pytest.mark.slow
def test_an_interrupted_healing_gives_the_same_to_the_bit(healed, weights, llama, texts, tmp_path):
    _, whole, _ = healed
    part = tmp_path / "part"
    options = {"checkpoint_every_tokens": 512, "keep": 9}
    heal(weights, llama, texts, part, **options)
    for later in checkpoints(part / "checkpoints")[:2]:
        shutil.rmtree(later)
    shutil.rmtree(part / "final")
    found = heal(weights, llama, texts, part, resume=True, **options)
    assert found.resumed_at_step == 8
    for own, other in zip(
        load_model(part / "final").parameters(),
        load_model(whole / "final").parameters(),
        strict=True,
    ):
        assert torch.equal(own, other)
    record = yaml.safe_load((part / "train.yaml").read_text())
    assert record["before"] == healed[0].before
    assert record["question"]["distill"]["teacher"] == llama.name
    random_model("llama", tmp_path / llama.name, num_hidden_layers=6, rms_norm_eps=1e-3)
    write_tokenizer_json(tmp_path / llama.name / "tokenizer.json")
    line = one_line(
        FlashnasError, heal, weights, tmp_path / llama.name, texts, part, resume=True, **options
    )
    assert "question.distill.sha256 is" in line


@pytest.mark.slow
def test_weights_are_trained_further_on_text_alone(weights, texts, tmp_path):
    found = fn.train(
        str(weights), data=str(texts), recipe=RECIPE, threads=1, out=tmp_path / "further"
    )
    assert found.before is None
    assert found.curve[-1][1] < found.curve[0][1]


def several(weights, tmp_path):
    folder = tmp_path / "several"
    shutil.copytree(weights.parents[1], folder)
    shutil.copytree(weights, folder / "models" / "2ms")
    return {"weights": folder}


def another_vocabulary(weights, tmp_path):
    network = fn.HybridLM(fn.Architecture.parse("64(vocab=301): d(head_dim=16) f"))
    save_model(tmp_path / "other", network, tokenizer_json=(weights / "tokenizer.json").read_text())
    return {"weights": tmp_path / "other"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (several, "holds 2 converted networks; name one of them: .*1ms, .*2ms"),
        (another_vocabulary, "train.distill: .* has a vocabulary of 300, and .* one of 301"),
        *cases("conversion", "bad_healing"),
    ],
)
def test_bad_input_is_one_line(options, words, weights, llama, texts, tmp_path):
    if callable(options):
        options = options(weights, tmp_path)
    given = {"weights": weights, **options}
    assert re.search(
        words,
        one_line(
            FlashnasError, heal, given.pop("weights"), llama, texts, tmp_path / "out", **given
        ),
    )
