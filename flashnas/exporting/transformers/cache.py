"""The cache of `generate`: the states of HybridLM.

A recurrent state, and meta tokens in front of a sequence, allow no padding: the rows of a batch have
equally many tokens.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from flashnas.network.cache import HybridCache


class FlashnasCache(Cache):
    """Filled by the first forward pass and changed by each further one."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.reset()

    def reset(self) -> None:
        self.states: HybridCache | None = None
        self.rows = self.columns = 0  # of the tokens read, without meta tokens

    # -- what generate() reads

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        return self.rows or -1

    @property
    def is_initialized(self) -> bool:
        return self.states is not None

    @property
    def is_croppable(self) -> bool:
        return False

    @property
    def is_linear(self) -> list[bool]:
        return [False]  # "not all linear": inputs that the cache has read are cut off

    def __len__(self) -> int:
        return len(self.states or ())

    # -- rows

    def batch_select_indices(self, *_: Any, **__: Any) -> None:
        raise ValueError("a flashnas cache keeps its rows: search by beams with use_cache=False")

    reorder_cache = batch_repeat_interleave = batch_select_indices

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                "a flashnas cache cannot drop tokens: a recurrent state does not keep earlier ones"
            )


def check_rows(
    tokens_BT: Tensor, mask: Tensor | None, positions: Tensor | None, cache: FlashnasCache | None
) -> None:
    """ValueError for what a row of tokens from its first one on cannot have."""
    rows, columns = tokens_BT.shape
    read = 0
    if cache is not None and cache.rows:
        read = cache.columns
        if cache.rows != rows:
            raise ValueError(f"input_ids must have the {cache.rows} rows of the cache; got {rows}")
    if mask is not None and not bool(mask.all()):
        raise ValueError(
            "attention_mask must be 1 for all tokens: a flashnas model takes no padding; give rows"
            " of equal length, or one row at a time"
        )
    if positions is not None and bool((positions[..., -1] != read + columns - 1).any()):
        raise ValueError(
            "position_ids must count each row's tokens from 0: several sequences in one row"
            " are not supported"
        )
