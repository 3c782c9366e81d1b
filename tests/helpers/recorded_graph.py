"""A stand-in for CUDA graphs on a CPU: the kernels of a capture, with the tensors that they got,
run again at a replay.

As on a GPU, every tensor keeps its address, numbers of the host are those of the capture, and
nothing else runs. A capture computes nothing: what it wrote over is put back.
"""

import contextlib
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashnas.network import model


class RecordedGraph(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []
        self.overwritten = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.overwritten += [(place, place.clone()) for place in _tensors(value)]
        outputs = func(*args, **(kwargs or {}))
        assert func is not torch.ops.aten._local_scalar_dense.default, "it waits for the device"
        if func is not torch.ops.aten.promote_types.default:
            self.calls.append((func, args, kwargs or {}, outputs))
        return outputs

    @torch.no_grad()
    def put_back(self):
        for place, value in reversed(self.overwritten):
            place.copy_(value)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, outputs in self.calls:
            again = func(*args, **kwargs)
            for place, value in zip(_tensors(outputs), _tensors(again), strict=True):
                if place.data_ptr() != value.data_ptr():
                    place.copy_(value)

    def forget(self):
        """Hold no tensor any more, as a graph does; weak references to those that it only read."""
        made = {id(part) for *_, outputs in self.calls for part in _tensors(outputs)}
        read = [part for _, args, _, _ in self.calls for value in args for part in _tensors(value)]
        alive = [weakref.ref(part) for part in read if id(part) not in made]
        self.calls, self.overwritten = [], []
        return alive


def _tensors(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if not isinstance(outputs, list | tuple):
        return []
    return [part for part in outputs if isinstance(part, torch.Tensor)]


def install(monkeypatch):
    """Let a CPU have graphs; returns the list that every captured one joins."""
    graphs = []

    class Stream:
        def wait_stream(self, other):
            pass

    @contextlib.contextmanager
    def graph(recorded):
        graphs.append(recorded)
        with recorded:
            yield
        recorded.put_back()

    monkeypatch.setattr(model, "check_capturable", lambda device: None)
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
