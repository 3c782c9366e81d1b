"""`flashnas push`: the real client of the hub against a stand-in for the hub's API."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

import yaml
from hub_server import TOKEN, running_hub
from huggingface_hub import ModelCard, constants
from networks import MIXED, make_network, write_tokenizer_json

import flashnas as fn
from flashnas.base.errors import FlashnasError
from flashnas.cli.main import main
from flashnas.network.weights import save_model

RECORD = {"question": {"seed": 7, "corpus": "/home/me/private/letters.txt+sotu+hf:some/texts:en", "corpus_digest": "d1",
                       "recipe": {"sequence_tokens": 32}},
          "score": {"loss": 3.25, "bits_per_byte": 1.5, "tokens": 1_000_000}}


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("training")
    text = write_tokenizer_json(folder / "tokenizer.json").read_text()
    save_model(folder / "final", make_network(MIXED), tokenizer_json=text)
    (folder / "train.yaml").write_text(yaml.safe_dump(RECORD))
    return folder


@pytest.fixture(scope="module")
def exported(training, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "my_model"
    fn.export(str(training), to="hf", out=out)
    return out


@pytest.fixture
def hub(monkeypatch):
    """The hub of this process; large files go by LFS, since there is no stand-in for Xet."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_trained_weights_arrive_with_their_card_in_one_commit(training, exported, hub, capsys):
    assert main(["push", str(training), "tiny", "--license", "mit", "--private", "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    repository = hub.repositories["me/tiny"]
    assert repository.private
    assert repository.commits == [("main", "Upload by flashnas")]
    assert pushed["url"] == f"{hub.url}/me/tiny/commit/{'1' * 40}"
    files = repository.branches["main"]
    assert {name: len(data) for name, data in files.items()} == pushed["files"]
    assert files.keys() == {path.name for path in exported.iterdir()}
    assert files["model.safetensors"] == (exported / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict() == {"library_name": "transformers", "pipeline_tag": "text-generation",
                                   "tags": ["flashnas"], "datasets": ["some/texts"], "license": "mit"}
    for text in ("3.2500 nats per token, 1.5000 bits per byte, after 1,000,000 training tokens",
                 "| letters.txt+sotu+hf:", "digest d1", "sequences of 32 tokens, seed 7",
                 "width 64; operators 1 a, 1 d,", 'from_pretrained("tiny")'):
        assert text in card.text
    assert "/home/me" not in card.text


def test_an_export_goes_to_a_branch_with_what_was_evaluated_since(exported, hub, tmp_path):
    (tmp_path / "text.txt").write_text("the state of the union is strong")
    found = fn.evaluate(str(exported), text=str(tmp_path / "text.txt"))
    pushed = fn.push_to_hub(str(exported), "me/tiny", revision="wip")
    assert fn.push_to_hub(str(exported), "me/tiny", revision="wip").files == pushed.files  # again, to what is there
    branches = hub.repositories["me/tiny"].branches
    assert branches["main"] == {}
    card = ModelCard(branches["wip"]["README.md"].decode())
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_value) == ("text.txt", found.score["bits_per_byte"])
    assert 'from_pretrained("me/tiny")' in card.text
    assert card.text.count("| text.txt | bits_per_byte |") == 1
    assert pushed.notes == ["no licence is named, so that nobody may use the weights; --license names one"]


def test_a_dry_run_asks_nobody(exported, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(exported), "me/tiny", "--dry-run"]) == 0
    assert "me/tiny: nothing was uploaded (--dry-run)" in capsys.readouterr().out
    assert hub.asked == []


def test_every_refusal_is_one_line(exported, hub, tmp_path, monkeypatch):
    fn.push_to_hub(str(exported), "me/public")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ({"model": empty}, "holds neither trained weights nor an export"),
        ({"repo": "a/b/c"}, "repo 'a/b/c': must be NAME or USER/NAME"),
        ({"repo": "them/tiny"}, "them/tiny: the token may not write there"),
        ({"repo": "nobody/tiny"}, "nobody/tiny: the hub has no such repository, user or organisation"),
        ({"repo": "me/public", "private": True}, "me/public: is public already, and --private does not change that"),
        ({"license": "apache"}, '"license" must be one of'),
        ({"token": "hf_wrong"}, "the hub does not accept the token"),
        ({"token": ""}, "push needs a token of the hub"),
        ({"endpoint": "http://127.0.0.1:1"}, "http://127.0.0.1:1: cannot be reached"),
    ]
    wrong = []
    for changes, expected in cases:
        with monkeypatch.context() as patch:
            patch.setenv("HF_TOKEN", changes.pop("token", TOKEN))
            patch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
            patch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
            patch.setattr(constants, "ENDPOINT", changes.pop("endpoint", hub.url))
            model, repo = str(changes.pop("model", exported)), changes.pop("repo", "me/tiny")
            with pytest.raises(FlashnasError) as error:
                fn.push_to_hub(model, repo, **changes)
        if expected not in str(error.value) or "\n" in str(error.value):
            wrong.append(f"{expected}: {error.value}")
    assert not wrong


def test_a_link_in_the_folder_is_not_followed(exported, hub, tmp_path):
    (tmp_path / "secret").write_text("of somebody")
    for name in ("README.md", "notes.txt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "README.md").write_text((exported / "README.md").read_text())
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(exported / "README.md" if name == "README.md" else tmp_path / "secret")
        with pytest.raises(FlashnasError, match=f"{name}: must be a regular file; got a link"):
            fn.push_to_hub(str(folder), "me/tiny")
    assert hub.repositories == {}
