"""The cache of `generate`: the states of HybridLM, with rows of equal length together.

A recurrent state, and meta tokens in front of a sequence, allow no padding. Rows of a padded batch
are therefore read in groups of equal length; each row gives exactly the result that it gives alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from flashnas.network.cache import HybridCache, mapped


@dataclass
class Group:
    """Rows of the batch that have read equally many tokens."""

    rows: list[int]
    states: HybridCache


class FlashnasCache(Cache):
    """Filled by the first forward pass and changed by each further one. A copy does not share its
    states.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.groups: list[Group] = []
        self.columns = 0  # tokens read per row, padding included, meta tokens not

    # -- what generate() reads

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        return sum(len(group.rows) for group in self.groups) or -1

    @property
    def is_initialized(self) -> bool:
        return bool(self.groups)

    @property
    def is_croppable(self) -> bool:
        return False

    @property
    def is_linear(self) -> list[bool]:
        return [False]  # "not all linear": inputs that the cache has read are cut off

    def __len__(self) -> int:
        return len(self.groups[0].states.states) if self.groups else 0

    # -- rows

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row n becomes the former row indices[n]."""
        picked = indices.tolist()
        groups = []
        for group in self.groups:
            place = {row: n for n, row in enumerate(group.rows)}
            rows = [n for n, row in enumerate(picked) if row in place]
            if rows:
                chosen = torch.tensor([place[picked[n]] for n in rows], device=indices.device)
                states = tuple(select_rows(state, chosen) for state in group.states.states)
                groups.append(Group(rows, HybridCache(states)))
        self.groups = groups

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(max(self.batch_size, 0)).repeat_interleave(repeats))

    def reset(self) -> None:
        self.groups = []
        self.columns = 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                "a flashnas cache cannot drop tokens: a recurrent state does not keep earlier ones"
            )


def select_rows(state: Any, rows: Tensor) -> Any:
    """The states of these rows of the batch, which is the first dimension of every tensor;
    copies.
    """

    def of(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.index_select(0, rows.to(part.device))
        return dataclasses.replace(
            part, keys_BGTK=of(part.keys_BGTK), values_BGTK=of(part.values_BGTK)
        )

    return mapped(state, of)


# -- where the tokens of a padded batch begin ------------------------------------------------------


def first_tokens(
    tokens_BT: Tensor, mask: Tensor | None, positions: Tensor | None, cache: FlashnasCache | None
) -> list[int] | None:
    """The column of the first token of each row; None if no row begins with padding. ValueError for
    a mask or positions that a sequence from its first token on cannot have."""
    batch, columns = tokens_BT.shape
    if cache is not None and cache.groups:
        if cache.batch_size != batch:
            raise ValueError(
                f"input_ids must have the {cache.batch_size} rows of the cache; got {batch}"
            )
        if columns > 1 and mask is not None and not bool(mask[:, -columns:].all()):
            raise ValueError("attention_mask must be 1 for all tokens that follow a cache")
        return None
    if mask is None:
        return None
    if mask.shape != tokens_BT.shape:
        raise ValueError(
            f"attention_mask must have the shape {tuple(tokens_BT.shape)} of input_ids;"
            f" got {tuple(mask.shape)}"
        )
    real = mask.bool()
    starts = real.int().argmax(1).tolist()
    lengths = real.sum(1).tolist()
    ends = (columns - real.flip(1).int().argmax(1)).tolist()
    for row, (start, length, end) in enumerate(zip(starts, lengths, ends, strict=True)):
        if length == 0 or end - start != length:
            raise ValueError(
                f"attention_mask[{row}] must be one run of ones; got {mask[row].tolist()}"
            )
        if cache is not None and end < columns:
            raise ValueError(
                "a padded batch can be continued only with its padding on the left;"
                " set tokenizer.padding_side = 'left'"
            )
    _check_positions(positions, real)
    return starts if any(starts) else None


def _check_positions(positions: Tensor | None, real: Tensor) -> None:
    if positions is None:
        return
    expected = real.long().cumsum(1) - 1
    if positions.shape[-1] != real.shape[1] or bool(
        (positions.expand_as(expected) != expected)[real].any()
    ):
        raise ValueError(
            "position_ids must count each row's tokens from 0: several sequences in one row"
            " are not supported"
        )


def rows_by_start(starts: list[int]) -> list[tuple[int, list[int]]]:
    """Rows that begin at the same column, together."""
    groups: dict[int, list[int]] = {}
    for row, start in enumerate(starts):
        groups.setdefault(start, []).append(row)
    return sorted(groups.items())


def in_order(outputs: list[Tensor], rows: list[list[int]]) -> Tensor:
    """Outputs of groups of rows as one batch in its own order."""
    if len(outputs) == 1:
        return outputs[0]
    order = [row for group in rows for row in group]
    inverse = torch.tensor(order, device=outputs[0].device).argsort()
    return torch.cat(outputs)[inverse]
