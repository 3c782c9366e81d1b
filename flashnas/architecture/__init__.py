"""Architectures: the object, its notation, presets, and the files that describe one."""

from flashnas.architecture.architecture import (
    DEFAULT_VOCAB,
    MAX_HIDDEN,
    MAX_META_TOKENS,
    MAX_VOCAB,
    Architecture,
)
from flashnas.architecture.notation import is_notation, parse_operators

__all__ = [
    "DEFAULT_VOCAB",
    "MAX_HIDDEN",
    "MAX_META_TOKENS",
    "MAX_VOCAB",
    "Architecture",
    "is_notation",
    "parse_operators",
]
