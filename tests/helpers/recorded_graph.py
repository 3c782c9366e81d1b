"""A stand-in for CUDA graphs on a CPU: the kernels of a capture, with the tensors that they got,
run again at a replay.

As on a GPU, every tensor keeps its address, numbers of the host are those of the capture, and
nothing else runs. A capture computes nothing: what it wrote over is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.network import cache


class RecordedGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.overwritten: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.overwritten += [(place, place.clone()) for place in _tensors(value)]
        outputs = func(*args, **(kwargs or {}))
        assert func is not torch.ops.aten._local_scalar_dense.default, "it waits for the device"
        if func is not torch.ops.aten.promote_types.default:
            self.calls.append((func, args, kwargs or {}, outputs))
        return outputs

    @torch.no_grad()
    def put_back(self) -> None:
        for place, value in reversed(self.overwritten):
            place.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outputs in self.calls:
            again = func(*args, **kwargs)
            for place, value in zip(_tensors(outputs), _tensors(again), strict=True):
                if place.data_ptr() != value.data_ptr():
                    place.copy_(value)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [part for part in outputs or () if isinstance(part, torch.Tensor)]


def install(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """Let a CPU have graphs; returns the list that every captured one joins."""
    graphs: list[RecordedGraph] = []

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    @contextlib.contextmanager
    def graph(recorded: RecordedGraph) -> Iterator[None]:
        graphs.append(recorded)
        with recorded:
            yield
        recorded.put_back()

    monkeypatch.setattr(cache, "_has_graphs", lambda device: True)
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "CUDAGraph": RecordedGraph,
        "graph": graph,
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return graphs
