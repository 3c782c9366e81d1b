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
    }
    for text in (
        "3.2500 nats per token, 1.5000 bits per byte, after\n1,000,000 training tokens",
        'from_pretrained("tiny")',
    ):
        assert text in card.text
    assert "/home/me" not in card.text
