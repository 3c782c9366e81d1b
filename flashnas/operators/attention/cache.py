"""The keys and values that attention keeps.

A KeyValueCache grows with the sequence. A FixedCache has its size from the start, and its length
lies on the device: no kernel of a step depends on how many tokens were read, so that the step can
be recorded once and replayed for every further token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GROW_TOKENS = 256


@dataclass(frozen=True)
class KeyValueCache:
    """Rotated keys and values [B, kv_heads, room, head_dim], of which `kept` hold tokens; `seen`:
    length so far.

    With a window, the token at position p lies in slot p mod window. `step` writes in place where
    the cache owns its tensors; those of a parallel forward are views of activations and are copied
    by the first step.
    """

    keys_BGTK: Tensor
    values_BGTK: Tensor
    seen: int
    window: int
    owned: bool = False

    @property
    def kept(self) -> int:
        return min(self.seen, self.window) if self.window else self.seen

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the kept tokens, the oldest first."""
        kept = self.kept
        keys, values = self.keys_BGTK[:, :, :kept], self.values_BGTK[:, :, :kept]
        first = self.seen % self.window if self.window and self.seen > self.window else 0
        if first == 0:
            return keys, values
        return keys.roll(-first, 2), values.roll(-first, 2)

    def appended(self, key_BGK: Tensor, value_BGK: Tensor) -> KeyValueCache:
        """The cache with one more token; grows by half when it is full."""
        keys, values = self.keys_BGTK, self.values_BGTK
        slot = self.seen % self.window if self.window else self.seen
        if slot >= keys.shape[2]:
            room = slot + max(GROW_TOKENS, slot // 2)
            more = (min(room, self.window) if self.window else room) - keys.shape[2]
            keys, values = (F.pad(x, (0, 0, 0, more)) for x in (keys, values))
        elif not self.owned or torch.is_grad_enabled():  # autograd may still need the old contents
            keys, values = keys.clone(), values.clone()
        keys.select(2, slot).copy_(key_BGK)
        values.select(2, slot).copy_(value_BGK)
        return KeyValueCache(keys, values, self.seen + 1, self.window, owned=True)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept tokens (the room beyond them not counted)."""
        batch, heads, _, dim = self.keys_BGTK.shape
        return 2 * batch * heads * self.kept * dim * self.keys_BGTK.element_size()


class Position:
    """The number of tokens that the sequences of a batch have read, on their device; one for a
    whole network.

    room: the most that it reaches. by: what a step adds to it; 0 where one step is timed
    repeatedly.
    """

    def __init__(
        self, seen: int, room: int, batch: int, device: torch.device | str, by: int = 1
    ) -> None:
        self.room = 1 << max(8, (room - 1).bit_length())  # few distinct rotary tables
        self.seen_1 = torch.full((1,), seen, dtype=torch.long, device=device)
        self.seen_B = torch.full((batch,), seen, dtype=torch.int32, device=device)
        self.by = by

    def advance(self) -> None:
        self.seen_1.add_(self.by)
        self.seen_B.add_(self.by)


@dataclass(frozen=True)
class FixedCache:
    """Rotated keys and values [B, kv_heads, room, head_dim] in the slots of a KeyValueCache;
    `position` tells how many were written. A step writes in place."""

    keys_BGTK: Tensor
    values_BGTK: Tensor
    position: Position
    window: int

    @classmethod
    def of(cls, cache: KeyValueCache, room: int, position: Position) -> FixedCache:
        """A copy with room for so many tokens."""
        batch, groups, _, dim = cache.keys_BGTK.shape
        slots = min(room, cache.window) if cache.window else room
        keys, values = (cache.keys_BGTK.new_zeros(batch, groups, slots, dim) for _ in range(2))
        for copy, old in ((keys, cache.keys_BGTK), (values, cache.values_BGTK)):
            copy[:, :, : cache.kept] = old[:, :, : cache.kept]
        return cls(keys, values, position, cache.window)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all slots."""
        return 2 * self.keys_BGTK.nbytes

    def append(self, key_BGK: Tensor, value_BGK: Tensor) -> None:
        """Write one token into its slot."""
        seen_1 = self.position.seen_1
        slot_1 = seen_1 % self.window if self.window else seen_1
        self.keys_BGTK.index_copy_(2, slot_1, key_BGK.unsqueeze(2))
        self.values_BGTK.index_copy_(2, slot_1, value_BGK.unsqueeze(2))

    def kept_B(self) -> Tensor:
        """How many slots hold tokens after `append`, for each sequence."""
        return (self.position.seen_B + 1).clamp(max=self.keys_BGTK.shape[2])
