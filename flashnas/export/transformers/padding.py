"""Where the tokens of a padded batch begin. Each error is one line: place, rule, value."""

from __future__ import annotations

import torch
from torch import Tensor

from flashnas.export.transformers.cache import FlashnasCache


def first_tokens(tokens_BT: Tensor, mask: Tensor | None, positions: Tensor | None,
                 cache: FlashnasCache | None) -> list[int] | None:
    """The column of the first token of each row; None if no row begins with padding.

    Raises ValueError for a mask or positions that a sequence from its first token on cannot have.
    """
    batch, columns = tokens_BT.shape
    if cache is not None and cache.groups:
        if cache.batch_size != batch:
            raise ValueError(f"input_ids must have the {cache.batch_size} rows of the cache; got {batch}")
        if columns > 1 and mask is not None and not bool(mask[:, -columns:].all()):
            raise ValueError("attention_mask must be 1 for all tokens that follow a cache")
        return None
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape != tokens_BT.shape:
        raise ValueError(f"attention_mask must have the shape {tuple(tokens_BT.shape)} of input_ids;"
                         f" got {tuple(mask.shape)}")
    real = mask.bool()
    if bool(real.all()):
        starts = None
    else:
        starts = real.int().argmax(1).tolist()
        lengths = real.sum(1).tolist()
        ends = (columns - real.flip(1).int().argmax(1)).tolist()
        for row, (start, length, end) in enumerate(zip(starts, lengths, ends, strict=True)):
            if length == 0 or end - start != length:
                raise ValueError(f"attention_mask[{row}] must be one run of ones; got {mask[row].tolist()}")
            if cache is not None and end < columns:
                raise ValueError("a padded batch can be continued only with its padding on the left;"
                                 " set tokenizer.padding_side = 'left'")
    _check_positions(positions, real)
    return starts if starts is not None and any(starts) else None


def _check_positions(positions: Tensor | None, real: Tensor) -> None:
    if positions is None:
        return
    expected = real.long().cumsum(1) - 1
    if positions.shape[-1] != real.shape[1] or bool((positions.expand_as(expected) != expected)[real].any()):
        raise ValueError("position_ids must count each row's tokens from 0: several sequences in one row"
                         " are not supported")


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
