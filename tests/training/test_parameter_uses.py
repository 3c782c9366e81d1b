"""Every parameter is trained by what its layer declares it to be, as by the names in
parameter_table.txt before.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from flashnas.architecture import Architecture
from flashnas.base.errors import OperatorError
from flashnas.network.model import HybridLM, ParameterUse
from flashnas.operators.delta_net.layer import DeltaNetLayer
from flashnas.operators.roles import Declared, Role
from flashnas.training.optimizer import Optimizers, initialise
from flashnas.training.recipe import Recipe

TABLE = (Path(__file__).parent / "parameter_table.txt").read_text().splitlines()
NOTATION = TABLE[0].removeprefix("# ")


def test_optimizer_family_decay_and_norm_of_every_parameter_are_those_of_the_table():
    network = HybridLM(Architecture.parse(NOTATION))
    recipe = Recipe(optimizer="muon", weight_norm=True, weight_decay=0.1)
    optimizers = Optimizers(network, recipe)
    assert optimizers.weight_norm is not None
    norms = {
        id(parameter): case.name.lower() for parameter, case in optimizers.weight_norm.matrices
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


def test_filters_of_any_shape_start_near_the_current_token():
    class WithTorchConvolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, groups=4)  # [4, 1, 3]

        def parameter_uses(self):
            return {
                f"conv.{name}": ParameterUse(Role.FILTER, "x.conv") for name in ("weight", "bias")
            }

    network = WithTorchConvolution()
    bias = network.conv.bias.detach().clone()
    initialise(network, Recipe(conv_noise=0.0))
    assert network.conv.weight.flatten(0, 1).tolist() == [[0.0, 0.0, 1.0]] * 4
    assert torch.equal(network.conv.bias, bias)


def test_a_parameter_that_is_not_declared_is_an_error_when_the_network_is_built(monkeypatch):
    monkeypatch.setattr(DeltaNetLayer, "roles", {"out_proj": Role.WRITES})
    with pytest.raises(
        OperatorError,
        match=r"DeltaNetLayer does not declare the role of its parameter"
        r" 'in_proj.weight': add 'in_proj' to DeltaNetLayer.roles",
    ):
        HybridLM(Architecture.parse("64(vocab=50): d(head_dim=16)"))


def test_modules_inside_modules_are_declared_by_name_and_biases_are_known():
    class Inner(Declared):
        roles = {"scale": Role.VECTOR}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(nn.Linear(1, 3).bias.detach())

    class Outer(Declared):
        roles = {"experts": Role.READS}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(
                [nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3, bias=False), Inner())]
            )

    assert Outer().parameter_roles() == {
        "experts.0.weight": Role.READS,
        "experts.0.bias": Role.BIAS,
        "experts.1.0.weight": Role.READS,
        "experts.1.1.scale": Role.VECTOR,
    }
