"""Muon of many matrices at once against torch's loop over matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.training.optimizer import MAX_ENTRIES, BatchedMuon

SHAPES = [(48, 16), (16, 48), (48, 16), (16, 16), (48, 16), (16, 48), (20, 17)]


@pytest.mark.parametrize("most_entries", [MAX_ENTRIES, 2 * 48 * 16, 1])
def test_updates_equal_those_of_torch(most_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups with rates of their own, a matrix without a gradient, and parts of a shape at a time."""
    monkeypatch.setattr("flashnas.training.optimizer.MAX_ENTRIES", most_entries)
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in SHAPES]
    sides = []
    for kind in (torch.optim.Muon, BatchedMuon):
        parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
        groups = [{"params": parameters[:3], "lr": 0.02, "weight_decay": 0.0},
                  {"params": parameters[3:], "lr": 0.01, "weight_decay": 0.3}]
        sides.append((parameters, kind(groups, momentum=0.9, ns_steps=3, adjust_lr_fn="match_rms_adamw")))
    for step in range(4):
        for parameters, optimizer in sides:
            torch.manual_seed(step)
            for n, parameter in enumerate(parameters):
                parameter.grad = None if n == step else torch.randn(parameter.shape)
            optimizer.step()
    for n, (expected, got) in enumerate(zip(sides[0][0], sides[1][0], strict=True)):
        assert not torch.equal(got, weights[n])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(sides[1][1].state[got], sides[0][1].state[expected], rtol=0, atol=1e-6)


class Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


def test_a_step_makes_no_tensor_of_numbers_of_the_host() -> None:
    """A GPU would wait for each."""
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = BatchedMuon([{"params": parameters, "lr": 0.02}], adjust_lr_fn="match_rms_adamw")
    with Called() as called:
        optimizer.step()
    assert "_foreach_add_" in called.names
    assert not {"lift_fresh", "_local_scalar_dense"} & set(called.names)
