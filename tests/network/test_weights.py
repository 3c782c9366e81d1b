import pytest
import torch
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import WeightsError
from flashnas.network.model import HybridLM
from flashnas.network.weights import MODEL, load_model, read_tensors, save_model, write_tensors

ARCHITECTURE = Architecture.parse(
    "64(vocab=300,meta=4): d(head_dim=16) f a(head_dim=16) m2(head_dim=16,state=16)"
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save_model(
        tmp_path / "final",
        HybridLM(ARCHITECTURE),
        tokenizer_json="{}",
        files={"recipe.yaml": "a: 1\n"},
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_to_the_bit(tmp_path, tied):
    architecture = Architecture.from_dict({**ARCHITECTURE.to_dict(), "tied": tied})
    network = HybridLM(architecture)
    again = load_model(save_model(tmp_path / "final", network))
    assert again.architecture == architecture
    assert list(again.state_dict()) == list(network.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_half_precision_stays_and_loading_leaves_the_random_numbers_alone(tmp_path):
    save_model(tmp_path / "final", HybridLM(ARCHITECTURE).bfloat16())
    before = torch.get_rng_state()
    assert load_model(tmp_path / "final").embedding.weight.dtype == torch.bfloat16
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_again_replaces_and_other_folders_stay(folder):
    network = HybridLM(ARCHITECTURE)
    assert torch.equal(
        load_model(save_model(folder, network)).embedding.weight, network.embedding.weight
    )
    (folder / "architecture.yaml").unlink()
    with pytest.raises(
        WeightsError, match=r"final: exists and holds no weights \(it has no architecture.yaml\)"
    ):
        save_model(folder, network)


def test_a_damaged_file_is_named(folder):
    path = folder / MODEL
    data = path.read_bytes()
    for damaged in (data[:-7], data[:-1] + bytes([data[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        assert "model.safetensors: is damaged: its sha256 is not the recorded " in one_line(
            WeightsError, load_model, folder
        )
    path.write_bytes(data[:1000])
    assert "model.safetensors: is damaged" in one_line(WeightsError, read_tensors, path)


def test_missing_files_are_named(folder):
    (folder / MODEL).unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read: No such file"):
        load_model(folder)
    with pytest.raises(WeightsError, match="holds no weights"):
        load_model(folder.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("final_norm.weight"),
            r"architecture: final_norm\.weight \[64\] is missing",
        ),
        (
            lambda tensors: tensors.update(extra=torch.zeros(2)),
            "architecture: extra has no place in this one",
        ),
        (
            lambda tensors: tensors.update({"final_norm.weight": torch.zeros(3)}),
            r"architecture: final_norm\.weight is \[3\], this one needs \[64\]",
        ),
    ],
)
def test_weights_of_another_architecture_are_named(folder, change, message):
    tensors = read_tensors(folder / MODEL)
    change(tensors)
    digest = write_tensors(folder / MODEL, tensors)
    text = (folder / "architecture.yaml").read_text()
    old = next(line for line in text.splitlines() if line.startswith("sha256"))
    (folder / "architecture.yaml").write_text(text.replace(old, f"sha256: {digest}"))
    with pytest.raises(WeightsError, match=message):
        load_model(folder)
