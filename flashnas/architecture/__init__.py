"""Architectures: their notation, presets, and all that a command takes for one."""

from flashnas.architecture.architecture import DEFAULT_VOCAB, Architecture, is_notation, parse_operators

__all__ = ["DEFAULT_VOCAB", "Architecture", "is_notation", "parse_operators"]
