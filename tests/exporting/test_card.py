"""The model card: README.md of an export, with the header that model hubs read."""

import pytest
from cases import cases

pytest.importorskip("transformers")

import yaml
from huggingface_hub import ModelCard

import flashnas as fn

RECORD = cases("exporting", "record_of_a_training")


@pytest.fixture
def training(trained):
    """The folder of a finished training."""
    (trained.parent / "train.yaml").write_text(yaml.safe_dump(RECORD))
    return trained.parent


def card_of(training, out):
    fn.export(str(training), to="hf", out=out)
    return ModelCard((out / "README.md").read_text())


def test_an_export_says_what_its_training_recorded(training, tmp_path):
    card = card_of(training, tmp_path / "tiny")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["flashnas"],
        "datasets": ["some/texts"],
    }
    for text in (
        "3.2500 nats per token, 1.5000 bits per byte, after 1,000,000 training tokens",
        "| letters.txt+sotu+hf:",
        "digest d1",
        "sequences of 32 tokens, seed 7",
        "width 64; operators 1 a, 1 d,",
        'from_pretrained("tiny")',
    ):
        assert text in card.text
    assert "/home/me" not in card.text
    assert "## Evaluation" not in card.text


def test_an_export_says_what_was_evaluated_before_it(training, tmp_path):
    (tmp_path / "text.txt").write_text("the state of the union is strong")
    found = fn.evaluate(str(training), text=str(tmp_path / "text.txt"))
    card = card_of(training, tmp_path / "tiny")
    figure = f"| text.txt | bits_per_byte | {found.score['bits_per_byte']:.4f} |"
    assert card.text.count(figure) == 1
