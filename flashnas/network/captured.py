"""One decoding step of a network as a CUDA graph, which is replayed for every token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flashnas.base.errors import DeviceError
from flashnas.network.cache import FixedStates, HybridCache

if TYPE_CHECKING:
    from flashnas.network.model import HybridLM


class CapturedStep:
    """`HybridLM.step_in_place`: (tokens [B]) -> logits [B, V], which the next call overwrites.

    Position, slots of the caches and rotary rows lie on the device, so that a replay costs one launch,
    whatever the position.

    Args:
        model: on a CUDA device; its weights must not change while the step is used.
        cache: of the prompt.
        seen: tokens of the prompt, meta tokens included.
        room: tokens of the prompt and those to come.
    """

    def __init__(self, model: HybridLM, cache: HybridCache, seen: int, room: int, batch: int) -> None:
        device = model.embedding.weight.device
        self.tokens_B = torch.zeros(batch, dtype=torch.long, device=device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are tuned at the first calls, with states of their own
            tried = FixedStates.of(cache.states, seen, room, batch, device)
            for _ in range(min(2, room - seen)):
                model.step_in_place(self.tokens_B, tried)
            del tried
        torch.cuda.current_stream().wait_stream(side)
        self.states = FixedStates.of(cache.states, seen, room, batch, device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.logits_BV = model.step_in_place(self.tokens_B, self.states)

    def __call__(self, tokens_B: Tensor) -> Tensor:
        self.tokens_B.copy_(tokens_B)
        self._graph.replay()
        return self.logits_BV


def check_capturable(model: HybridLM) -> None:
    """Raise DeviceError where there are no CUDA graphs."""
    device = model.embedding.weight.device
    if not _has_graphs(device):
        raise DeviceError(f"generate: graph=True needs a network on a CUDA device; this one is on {device}")


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"
