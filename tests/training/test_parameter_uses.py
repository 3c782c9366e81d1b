"""Every parameter is trained by what its layer declares it to be, as by the names in
parameter_table.txt before.
"""

from pathlib import Path

import pytest

from flashnas.architecture import Architecture
from flashnas.base.errors import OperatorError
from flashnas.network.model import HybridLM
from flashnas.operators.delta_net.spec import DeltaNet
from flashnas.operators.layer import build_layer
from flashnas.operators.spec import norm
from flashnas.training.optimizer import COLUMNS, ROWS, Optimizers
from flashnas.training.recipe import Recipe

TABLE = (Path(__file__).parent / "parameter_table.txt").read_text().splitlines()
NOTATION = TABLE[0].removeprefix("# ")


def test_optimizer_family_decay_and_norm_of_every_parameter_are_those_of_the_table():
    network = HybridLM(Architecture.parse(NOTATION))
    recipe = Recipe(optimizer="muon", weight_norm=True, weight_decay=0.1)
    optimizers = Optimizers(network, recipe)
    norms = {
        id(parameter): {ROWS: "rows", COLUMNS: "columns"}[dim]
        for parameter, dim in optimizers.normalised
    }
    groups = {
        id(parameter): (name, group)
        for name, optimizer in zip(("muon", "adamw"), optimizers.optimizers, strict=True)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = []
    for name, parameter in network.named_parameters():
        optimizer, group = groups[id(parameter)]
        found.append(
            f"{name} {'x'.join(map(str, parameter.shape))} {optimizer} {group['family']}"
            f" {'decays' if group['weight_decay'] else '-'} {norms.get(id(parameter), '-')}"
        )
    assert found == TABLE[2:]


def test_a_layer_whose_parameters_are_not_those_of_its_specification_is_not_built():
    class Fewer(DeltaNet):
        def tensors(self, hidden):
            return [norm("norm", 16)]

    class More(DeltaNet):
        def tensors(self, hidden):
            return [*super().tensors(hidden), norm("more", 5)]

    with pytest.raises(
        OperatorError, match=r"'d': its layer builds the parameter 'in_proj.weight'"
    ):
        build_layer(Fewer(head_dim=16), 64)
    with pytest.raises(OperatorError, match=r"'more.weight' of its layer has the shape None; its"):
        build_layer(More(head_dim=16), 64)
