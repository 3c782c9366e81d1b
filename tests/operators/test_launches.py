"""How many kernels a decoding step of each operator launches on a GPU: on the meta device, with stand-ins for the
libraries.

A function of a library is one kernel, and a copy for each argument that fla would make contiguous first. Kernels of
torch are what it dispatches, without views and allocations. The norm of a block adds the update of the block before it.
After the last block of a network one more kernel copies the states that no library wrote in place.
"""

import contextlib
import functools
import sys
from collections import Counter
from typing import Any

import fake_libraries
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.network.cache import FixedStates
from flashnas.network.model import Block
from flashnas.operators import OPERATORS
from flashnas.operators.backends.core import Core

HIDDEN = 256
# kernels of a step: of one sequence, of several
MOST = {"f": (4, 4), "a": (4, 4), "swa": (13, 13), "d": (6, 8), "gd": (6, 10), "gla": (9, 13), "kda": (9, 11),
        "r7": (25, 25), "m2": (6, 7), "m": (7, 7), "h": (11, 12), "moe": (16, 15), "conv": (6, 6)}
PLAIN = ("fused_k_rwkv7",)         # torch for a single token
ANY_STRIDES = ("swiglu",)          # of fla
ALLOCATIONS = ("empty", "new_empty", "empty_like", "_unsafe_view", "promote_types")


class Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        views = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        if not (self.inside or views or name in ALLOCATIONS):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))

    def one(self, function: Any, copies: bool = False) -> Any:
        """A function that is one kernel; copies: it makes its arguments contiguous."""
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.names[function.__name__] += 1
            self.names["contiguous"] += sum(copies and isinstance(value, torch.Tensor) and not value.is_contiguous()
                                            for value in (*args, *kwargs.values()))
            self.inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False
        return run


def launches(kind: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    fake_libraries.install(monkeypatch)
    counted = Launches()
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(Core, "of", lambda self, x: self.kernels("cuda", x.dtype))
    monkeypatch.setattr(F, "rms_norm", counted.one(F.rms_norm))
    for module, contents in fake_libraries.MODULES.items():
        for name, function in contents.items():
            if callable(function) and name not in PLAIN and sys.modules.get(module) is not None:
                copies = module.startswith("fla.") and name not in ANY_STRIDES
                monkeypatch.setattr(sys.modules[module], name, counted.one(function, copies))
    with torch.device("meta"):
        block = Block(OPERATORS[kind](), HIDDEN).to(torch.bfloat16)
    with torch.no_grad(), torch.device("meta"):
        state = block.mixer.init_state(batch, torch.bfloat16, "meta")
        states = FixedStates.of((state,), 0, 16, batch, "meta")
        x, update = torch.empty(2, batch, HIDDEN, dtype=torch.bfloat16)
        for _ in range(2):  # constants are computed at the first step
            counted.names.clear()
            with counted:
                block.step(x, states.states[0], update)
    return +counted.names


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_step_launches_no_more_kernels_than_its_budget(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch, most in zip((1, 8), MOST[kind], strict=True):
        names = launches(kind, batch, monkeypatch)
        assert names.total() == most, f"batch {batch}: {dict(names)}; a lower count lowers MOST"
