"""A stand-in for torch.cuda with a clock of its own: streams, events, graphs, and the demands of a
capture.

Written from torch/cuda/{__init__,graphs,streams}.py of torch 2.13. A test's work calls
`device.kernel(us)` in place of launching one, and `device.wait()` in place of `.item()`.
"""

import contextlib

import torch

LAUNCH_US = 8.0  # of a graph


class FakeCuda:
    def __init__(self):
        self.now_us, self.debug, self.capturing, self.captures, self.replays = 0.0, 0, None, 0, 0
        self.refuses = ""  # what a capture fails by, though nothing waits

    def kernel(self, us):
        if self.capturing is None:
            self.now_us += us
        else:
            self.capturing.append(us)

    def wait(self):
        if self.debug == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.capturing is not None:
            raise RuntimeError(
                "CUDA error: operation not permitted when stream is capturing\nCompile with .."
            )

    def install(self, monkeypatch):
        device = self

        class Stream:
            def wait_stream(self, other):
                assert isinstance(other, Stream)

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self):
                self.at_us = device.now_us

            def synchronize(self):
                assert hasattr(self, "at_us")

            def elapsed_time(self, end):
                return (end.at_us - self.at_us) / 1000

        class CUDAGraph:
            def __init__(self):
                self.work = []

            def replay(self):
                assert self.work, "the graph is empty"
                device.replays += 1
                device.now_us += LAUNCH_US + sum(self.work)

        @contextlib.contextmanager
        def graph(cuda_graph):
            assert device.capturing is None
            device.captures += 1
            device.capturing = cuda_graph.work
            try:
                yield
                if device.refuses:
                    raise RuntimeError(device.refuses)
            finally:
                device.capturing = None

        for name, value in {
            "Stream": Stream,
            "stream": lambda _: contextlib.nullcontext(),
            "current_stream": Stream,
            "Event": Event,
            "CUDAGraph": CUDAGraph,
            "graph": graph,
            "synchronize": lambda: None,
            "set_sync_debug_mode": lambda mode: setattr(device, "debug", mode),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
