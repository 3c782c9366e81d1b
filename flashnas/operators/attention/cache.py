"""The keys and values that attention keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GROW_TOKENS = 256


class Position:
    """The number of tokens that the sequences of a batch have read, on their device; one for a
    whole network. room: the most that it reaches."""

    def __init__(self, seen: int, room: int, batch: int, device: torch.device | str) -> None:
        self.room = 1 << max(8, (room - 1).bit_length())  # few distinct rotary tables
        self.seen_1 = torch.full((1,), seen, dtype=torch.long, device=device)
        self.seen_B = torch.full((batch,), seen, dtype=torch.int32, device=device)


@dataclass(frozen=True)
class KeyValueCache:
    """Rotated keys and values [B, kv_heads, room, head_dim]. With a window, the token at position p
    lies in slot p mod window.

    Args:
        seen: the tokens read so far. The cache grows with them. A step writes in place where there is
            room.
        position: takes the place of `seen` where one step is recorded and replayed. No kernel then
            depends on a number of the host, and the cache has its size from the start.
    """

    keys_BGTK: Tensor
    values_BGTK: Tensor
    seen: int
    window: int
    position: Position | None = None

    @property
    def kept(self) -> int:
        """How many slots hold tokens; with a `position` all count."""
        if self.position is not None:
            return self.keys_BGTK.shape[2]
        return min(self.seen, self.window) if self.window else self.seen

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept tokens (the room beyond them not counted)."""
        batch, heads, _, dim = self.keys_BGTK.shape
        return 2 * batch * heads * self.kept * dim * self.keys_BGTK.element_size()

    @property
    def next(self) -> tuple[int | Tensor, int]:
        """The position of the next token, on the device [1] where it is there, and what it stays
        below."""
        if self.position is not None:
            return self.position.seen_1, self.position.room
        return self.seen, self.seen + 1

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the kept tokens, the oldest first."""
        keys = self.keys_BGTK[:, :, : self.kept]
        values = self.values_BGTK[:, :, : self.kept]
        first = self.seen % self.window if self.window and self.seen > self.window else 0
        return (keys.roll(-first, 2), values.roll(-first, 2)) if first else (keys, values)

    def appended(self, key_BGK: Tensor, value_BGK: Tensor) -> KeyValueCache:
        """The cache with one more token; grows by half when it is full."""
        keys, values = self.keys_BGTK, self.values_BGTK
        if self.position is not None:
            slot_1 = self.position.seen_1
            slot_1 = slot_1 % self.window if self.window else slot_1
            keys.index_copy_(2, slot_1, key_BGK.unsqueeze(2))
            values.index_copy_(2, slot_1, value_BGK.unsqueeze(2))
            return self
        slot = self.seen % self.window if self.window else self.seen
        if slot >= keys.shape[2]:
            room = slot + max(GROW_TOKENS, slot // 2)
            more = (min(room, self.window) if self.window else room) - keys.shape[2]
            keys, values = (F.pad(x, (0, 0, 0, more)) for x in (keys, values))
        elif torch.is_grad_enabled():  # autograd may still need the old contents
            keys, values = keys.clone(), values.clone()
        keys.select(2, slot).copy_(key_BGK)
        values.select(2, slot).copy_(value_BGK)
        return KeyValueCache(keys, values, self.seen + 1, self.window)

    def slots(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """After `appended`: keys, values, and how many of the slots hold tokens, for each sequence;
        None: all."""
        if self.position is None:
            kept = self.kept
            return self.keys_BGTK[:, :, :kept], self.values_BGTK[:, :, :kept], None
        kept_B = (self.position.seen_B + 1).clamp(max=self.keys_BGTK.shape[2])
        return self.keys_BGTK, self.values_BGTK, kept_B
