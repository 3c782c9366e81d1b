"""Weight normalization: the projection, and that training keeps matrices there. Which matrices:
parameter_table.txt.
"""

import dataclasses

import pytest
import torch
from test_trainer import RECIPE as PLAIN

from flashnas.architecture import Architecture
from flashnas.network.model import HybridLM
from flashnas.training.optimizer import COLUMNS, ROWS, Optimizers, initialise
from flashnas.training.trainer import Trainer

RECIPE = dataclasses.replace(PLAIN, tokens=6 * 256, weight_norm=True)
SMALL = Architecture.parse("64(vocab=300,meta=4): d(head_dim=16) f a(heads=4,kv_heads=2) f")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_keeps_every_matrix_at_unit_norm(structured, optimizer):
    trainer = Trainer(SMALL, structured, dataclasses.replace(RECIPE, optimizer=optimizer), seed=0)
    list(trainer.steps())
    for parameter, dim in trainer.optimizers.normalised:
        norms = parameter.norm(dim=dim)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert {dim for _, dim in trainer.optimizers.normalised} == {ROWS, COLUMNS}
    assert trainer.score().loss < trainer.curve[0][1]


def test_the_start_is_projected_and_operators_still_start_as_the_identity():
    network = HybridLM(SMALL)
    initialise(network, RECIPE)
    optimizers = Optimizers(network, RECIPE)
    assert network.embedding.weight.norm(dim=1).sub(1).abs().max() < 1e-5
    out = network.layers[0].mixer.out_proj.weight
    assert out.abs().max() == 0
    network.loss(torch.arange(32).view(2, 16), torch.arange(32).view(2, 16)).backward()
    optimizers.step(0)
    assert out.norm(dim=0).tolist() == pytest.approx([1.0] * out.shape[1]), (
        "a jump, as recipes.md says"
    )
