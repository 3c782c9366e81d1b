"""Architectures: their notation, presets, and all that a command takes for one."""

from flashnas.architecture.architecture import (
    DEFAULT_VOCAB,
    MAX_HIDDEN,
    MAX_META_TOKENS,
    MAX_VOCAB,
    Architecture,
    is_notation,
    parse_operators,
)

__all__ = ["DEFAULT_VOCAB", "MAX_HIDDEN", "MAX_META_TOKENS", "MAX_VOCAB", "Architecture", "is_notation",
           "parse_operators"]
