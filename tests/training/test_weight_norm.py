"""Weight normalization: the projection, and that training keeps matrices there. Which matrices:
parameter_table.txt.
"""

import dataclasses

import numpy as np
import pytest
import torch

from flashnas.architecture import Architecture
from flashnas.data.dataset import Dataset
from flashnas.network.model import HybridLM
from flashnas.training.optimizer import COLUMNS, ROWS, Optimizers, initialise, to_unit_norm
from flashnas.training.recipe import Recipe
from flashnas.training.trainer import Trainer, train

RECIPE = Recipe(
    vocab=300,
    width_factor=1,
    sequence_tokens=32,
    batch_sequences=4,
    tokens=6 * 128,
    muon_lr=0.02,
    adamw_lr=0.02,
    dtype="float32",
    validation_tokens=256,
    curve_tokens=128,
    curve_points=2,
    weight_norm=True,
)
SMALL = Architecture.parse("64(vocab=300,meta=4): d(head_dim=16) f a(heads=4,kv_heads=2) f")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    tokens = (np.arange(4000) * 7 % 300).astype(np.uint16)
    return Dataset(
        folder=tmp_path_factory.mktemp("data"),
        source="test",
        vocab=300,
        train=tokens,
        validation=tokens,
        validation_bytes=4000,
        notes=(),
    )


@pytest.mark.parametrize("dim", [ROWS, COLUMNS])
@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (2, 4, 3)])
def test_the_projection_sets_norms_and_keeps_directions(shape, dim):
    before = 3 * torch.randn(*shape, generator=torch.manual_seed(0), dtype=torch.float64)
    before.movedim(dim, 0)[:, ..., 0] = 0.0  # what is zero stays zero
    matrix = before.clone()
    to_unit_norm(matrix, dim)
    norms = before.norm(dim=dim, keepdim=True)
    torch.testing.assert_close(matrix * norms, before)
    torch.testing.assert_close(matrix.norm(dim=dim, keepdim=True), (norms > 0).double())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_keeps_every_matrix_at_unit_norm(dataset, optimizer):
    trainer = Trainer(SMALL, dataset, dataclasses.replace(RECIPE, optimizer=optimizer), seed=0)
    list(trainer.steps())
    for parameter, dim in trainer.optimizers.normalised:
        norms = parameter.norm(dim=dim)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert {dim for _, dim in trainer.optimizers.normalised} == {ROWS, COLUMNS}
    assert trainer.score().loss < trainer.curve[0][1]


def test_the_start_is_projected_and_operators_still_start_as_the_identity():
    network = HybridLM(SMALL)
    initialise(network, RECIPE)
    Optimizers(network, RECIPE)
    assert network.embedding.weight.norm(dim=1).sub(1).abs().max() < 1e-5
    assert network.layers[0].mixer.out_proj.weight.abs().max() == 0


def test_it_repeats_to_the_bit_and_is_off_unless_asked_for(dataset):
    first, second = (train(SMALL, dataset, RECIPE, seed=1).loss for _ in range(2))
    off = train(SMALL, dataset, dataclasses.replace(RECIPE, weight_norm=False), seed=1).loss
    assert first == second != off
    assert Recipe().weight_norm is False
    network = HybridLM(SMALL)
    before = {name: p.clone() for name, p in network.named_parameters()}
    Optimizers(network, dataclasses.replace(RECIPE, weight_norm=False)).step(0)
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
