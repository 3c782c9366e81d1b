"""A model whose texts begin with a token, and whose chats end with another one: from the score of
its layers to the healed export.
"""

import math

import pytest
import torch

pytest.importorskip("transformers")

from pretrained import random_model
from test_healing import RECIPE
from tokenizer_files import write_tokenizer_files

import flashnas as fn
from flashnas.conversion.config import ConvertConfig
from flashnas.conversion.folder import weights_of, write_weights
from flashnas.conversion.load import Conversion
from flashnas.data.dataset import prepare_dataset
from flashnas.data.tokenizer import front_ids
from flashnas.exporting.evaluate import bits_per_byte
from flashnas.exporting.source import load_source


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama3")
    random_model("llama", folder, vocab_size=350, max_position_embeddings=1024)
    write_tokenizer_files("llama3", folder)
    return folder


@pytest.fixture(scope="module")
def conversion(model, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    sizes = {"context": 256, "documents": 4, "prompts": 2}
    asked = {"model": str(model), "data": str(texts), "calibration": "paper", "out": out}
    return Conversion(ConvertConfig(**asked, **sizes), lambda line: None, lambda *counts: None)


def test_contexts_and_probes_begin_as_a_text_does(conversion):
    (front,) = front_ids(conversion.text.tokenizer)
    assert front == conversion.text.tokenizer.token_to_id("<|begin_of_text|>")
    student = conversion.student(0)
    for rows in (student.draw.documents, student.draw.prompts):
        assert (rows == front).sum(1).tolist() == [1] * len(rows)
        assert (rows[:, 0] == front).all()


def test_trainings_and_scores_see_texts_that_begin(model, texts, tmp_path):
    words = model / "tokenizer.json"
    dataset = prepare_dataset(str(texts), RECIPE, words, tmp_path)
    assert (next(dataset.batches(RECIPE, 0))[:, 0] == dataset.front).all()
    assert (dataset.validation_slice(RECIPE, 256)[:, 0] == dataset.front).all()
    ends = dataset.train == load_source(str(model)).tokenizer.token_to_id("<|end_of_text|>")
    assert dataset.train[0] == dataset.front
    assert (dataset.train[1:][ends[:-1]] == dataset.front).all()
    source, text = load_source(str(model)), tmp_path / "text.txt"
    text.write_text("the state of the union")
    tokens = torch.tensor([source.tokenizer.encode(text.read_text()).ids])
    found = bits_per_byte(source, str(text), 64, 64, lambda *counts: None)
    with torch.no_grad():
        nats = float(source.network.loss(tokens[:, :-1], tokens[:, 1:]))
    assert math.isclose(found.nats_per_token, nats, rel_tol=1e-5)


def test_a_healed_conversion_says_what_the_model_says(model, conversion, texts, tmp_path):
    layout = (conversion.choices[0],)
    written = weights_of(conversion, [layout])
    write_weights(conversion, written)
    weights = written[layout]
    original = load_source(str(model)).special
    assert load_source(str(weights)).special == original
    out = tmp_path / "healed"
    options = {"data": str(texts), "recipe": RECIPE, "threads": 1}
    fn.train(str(weights), distill=str(model), out=out, **options)
    assert load_source(str(out)).special == original
    (checkpoint, *_) = (out / "checkpoints").iterdir()
    assert load_source(str(checkpoint)).special == original
    assert original.generation["eos_token_id"][1:]
