"""A training that pauses is to the bit the training that does not."""

import dataclasses
import shutil

import pytest
import torch

from flashnas.architecture import Architecture
from flashnas.data.dataset import prepare_dataset
from flashnas.training import checkpoint
from flashnas.training.checkpoint import checkpoints, train_to
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import train

NETWORK = Architecture.parse("32(vocab=300,meta=2): d(head_dim=16) f m2(head_dim=16,state=16) f a(head_dim=16) f")
TIMES = ("seconds", "tokens_per_s")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recipe(quick_recipe):
    return dataclasses.replace(Recipe.load(quick_recipe), tokens=12 * 128, curve_points=4, dtype="bfloat16")


@pytest.fixture(scope="module")
def dataset(small_corpus, recipe):
    return prepare_dataset(str(small_corpus), recipe)


@pytest.fixture(scope="module")
def whole(dataset, recipe):
    torch.set_num_threads(1)
    return timeless(train(NETWORK, dataset, recipe, 3))


def timeless(score):
    return {key: value for key, value in score.to_dict().items() if key not in TIMES}


def trained(tokens, dataset, recipe, folder):
    return begun_and_trained(tokens, dataset, recipe, folder)[1]


def begun_and_trained(tokens, dataset, recipe, folder):
    score, begun, problem = train_to(tokens, NETWORK, dataset, recipe, 3, folder=folder)
    assert problem == ""
    return begun, timeless(score)


@pytest.mark.parametrize("pauses", [(384, 768, 1152), (1152,)])
def test_with_and_without_pauses_the_score_is_the_same_to_the_bit(dataset, recipe, whole, tmp_path, pauses):
    for number, tokens in enumerate(pauses):
        torch.manual_seed(number)  # what another candidate leaves in the process
        begun, partial = begun_and_trained(tokens, dataset, recipe, tmp_path)
        assert begun == (0, *pauses)[number]
        assert partial["tokens"] == tokens
        assert partial["curve"] == whole["curve"][:tokens // 384]
        assert [path.name for path in checkpoints(tmp_path)] == [f"step-{tokens // 128:08d}"]
    assert trained(recipe.tokens, dataset, recipe, tmp_path) == whole


def test_a_pause_that_was_reached_before_the_process_ended_is_not_trained_beyond(dataset, recipe, tmp_path):
    first = trained(768, dataset, recipe, tmp_path)
    written = checkpoints(tmp_path)[0].stat()
    assert begun_and_trained(768, dataset, recipe, tmp_path) == (768, first)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000006"]
    assert checkpoints(tmp_path)[0].stat() == written   # a kill while it is written again would cost it


def test_an_earlier_pause_is_found_again_where_a_later_one_is_on_the_disk(dataset, recipe, whole, tmp_path):
    trained(768, dataset, recipe, tmp_path)
    assert trained(384, dataset, recipe, tmp_path)["curve"] == whole["curve"][:1]


def test_a_checkpoint_stays_where_a_damaged_one_is_of_a_later_step(dataset, recipe, tmp_path):
    trained(768, dataset, recipe, tmp_path)
    (checkpoints(tmp_path)[0] / "model.safetensors").write_bytes(b"")
    trained(384, dataset, recipe, tmp_path)
    assert begun_and_trained(384, dataset, recipe, tmp_path)[0] == 384
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003"]


@pytest.mark.parametrize("damage", ["missing", "torn weights", "of another network"])
def test_without_a_usable_checkpoint_the_training_begins_again(dataset, recipe, whole, tmp_path, damage):
    trained(768, dataset, recipe, tmp_path)
    place = checkpoints(tmp_path)[0]
    if damage == "missing":
        shutil.rmtree(place)
    elif damage == "torn weights":
        (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-8])
    else:
        shutil.rmtree(tmp_path)
        train_to(768, Architecture.parse("32(vocab=300): f f"), dataset, recipe, 3, folder=tmp_path)
    assert begun_and_trained(recipe.tokens, dataset, recipe, tmp_path) == (0, whole)


def test_where_the_run_folder_is_not_there_nothing_is_written(dataset, recipe, whole, tmp_path):
    score, _, problem = train_to(768, NETWORK, dataset, recipe, 3, folder=tmp_path / "elsewhere" / "network")
    assert (timeless(score)["curve"], problem) == (whole["curve"][:2], "No such file or directory")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_is_a_note_and_no_failure(dataset, recipe, whole, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    score, _, problem = train_to(768, NETWORK, dataset, recipe, 3, folder=tmp_path)
    assert (timeless(score)["curve"], problem) == (whole["curve"][:2], "No space left on device")
    assert trained(recipe.tokens, dataset, recipe, tmp_path) == whole
