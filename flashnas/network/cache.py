"""What a network remembers of the sequences that it has read, and the step that continues it in
place: captured as a CUDA graph, it serves every position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashnas.base.errors import DeviceError, OperatorError
from flashnas.operators.attention.cache import KeyValueCache, Position


@dataclass(frozen=True)
class HybridCache:
    """One state per operator; continue a cache only once (key/value caches are written in
    place).
    """

    states: tuple[Any, ...]


def state_bytes(state: Any) -> int:
    """Bytes of a state for the whole batch: a tensor, a tuple of states, None, or an object with
    `kept_bytes`.
    """
    if isinstance(state, Tensor):
        return state.nbytes
    if hasattr(state, "kept_bytes"):
        return int(state.kept_bytes)
    return sum(map(state_bytes, state or ()))


def mapped(state: Any, function: Callable[[Any], Any]) -> Any:
    """The state of a layer with its tensors and key/value caches replaced.

    Raises OperatorError for a state of another kind, as a layer of a plugin may have.
    """
    if state is None:
        return None
    if isinstance(state, Tensor | KeyValueCache):
        return function(state)
    if not isinstance(state, tuple):
        raise OperatorError(
            f"a state must consist of tensors, KeyValueCaches and tuples; got a"
            f" {type(state).__name__}"
        )
    parts = [mapped(part, function) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


class FixedStates:
    """States, of tensors and caches at a position, that a step continues where they lie, so that it
    can be recorded and replayed. position: where all their sequences are."""

    def __init__(self, states: tuple[Any, ...], position: Position) -> None:
        self.states = states
        self.position = position

    @classmethod
    def of(
        cls, states: tuple[Any, ...], seen: int, room: int, batch: int, device: torch.device | str
    ) -> FixedStates:
        """Copies of the states of sequences that have `seen` tokens, with room for `room`."""
        position = Position(seen, room, batch, device)

        def fixed(part: Tensor | KeyValueCache) -> Tensor | KeyValueCache:
            return part.clone() if isinstance(part, Tensor) else part.fixed(room, position)

        return cls(tuple(mapped(state, fixed) for state in states), position)

    def take(self, states: tuple[Any, ...]) -> None:
        """Continue with the states after a step: copy those that no kernel has written in place."""
        pairs = [
            (before, after)
            for before, after in zip(_tensors(self.states), _tensors(states), strict=True)
            if before.data_ptr() != after.data_ptr()
        ]
        if pairs:
            before, after = map(list, zip(*pairs, strict=True))
            torch._foreach_copy_(before, after)
        self.position.advance()


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple):
        for part in state:
            yield from _tensors(part)


class CapturedStep:
    """`HybridLM.step_in_place`: (tokens [B]) -> logits [B, V], which the next call overwrites. A
    replay costs one launch, whatever the position.

    Args:
        step_in_place: of a network on a CUDA device whose weights do not change while this is used.
        cache: of the prompt, on that device.
        seen, room: tokens of the prompt, meta tokens included; of these and those to come.
        tokens_B: of the shape and on the device of those to come.
    """

    def __init__(
        self,
        step_in_place: Callable[[Tensor, FixedStates], Tensor],
        cache: HybridCache,
        seen: int,
        room: int,
        tokens_B: Tensor,
    ) -> None:
        self.tokens_B = torch.zeros_like(tokens_B)
        self._step_in_place = step_in_place  # with the weights, which every replay reads
        copies = (cache.states, seen, room, len(tokens_B), tokens_B.device)
        with torch.cuda.device(tokens_B.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            # kernels are tuned at the first calls, with states of their own
            with torch.cuda.stream(side):
                tried = FixedStates.of(*copies)
                for _ in range(min(2, room - seen)):
                    step_in_place(self.tokens_B, tried)
                del tried
            torch.cuda.current_stream().wait_stream(side)
            self.states = FixedStates.of(*copies)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.logits_BV = step_in_place(self.tokens_B, self.states)

    def __call__(self, tokens_B: Tensor) -> Tensor:
        self.tokens_B.copy_(tokens_B)
        self._graph.replay()
        return self.logits_BV


def check_capturable(device: torch.device) -> None:
    """Raise DeviceError where there are no CUDA graphs."""
    if device.type != "cuda":
        raise DeviceError(
            f"generate: graph=True needs a network on a CUDA device; this one is on {device}"
        )
