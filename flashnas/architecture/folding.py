"""Notation for readers, with repeats folded (`3x(d f m2 f)`), and the operators in it."""

from __future__ import annotations

import functools
from collections import Counter

from flashnas.architecture import Architecture
from flashnas.base.errors import FlashnasError

FOLD_LIMIT = 96  # operators; the search for the shortest form is cubic


def compressed(notation: str) -> str:
    """The shortest notation with repeats that parses to the same architecture; unreadable text
    comes back unchanged."""
    architecture = parsed(notation)
    if architecture is None:
        return notation
    header = architecture.notation.partition(":")[0]
    return f"{header}: {fold(tuple(map(str, architecture.operators)))}"


@functools.lru_cache(maxsize=1024)
def fold(words: tuple[str, ...]) -> str:
    """Join words by spaces, runs of equal groups as `3x(d f)`, in the fewest characters."""
    count = len(words)
    if count > FOLD_LIMIT:
        return " ".join(words)
    best: dict[tuple[int, int], str] = {}
    for length in range(1, count + 1):
        for start in range(count - length + 1):
            end = start + length
            options = [" ".join(words[start:end])]
            options += [f"{best[start, cut]} {best[cut, end]}" for cut in range(start + 1, end)]
            options += [
                f"{length // period}x({best[start, start + period]})"
                for period in range(1, length // 2 + 1)
                if length % period == 0
                and words[start : end - period] == words[start + period : end]
            ]
            best[start, end] = min(options, key=len)
    return best[0, count] if count else ""


@functools.lru_cache(maxsize=16_384)
def parsed(notation: str) -> Architecture | None:
    """The architecture; None for other text, such as one with an operator of a package that is not
    installed."""
    try:
        return Architecture.parse(notation)
    except FlashnasError:
        return None


def kinds(notation: str) -> tuple[str, ...]:
    """The short names of the operators in order; empty for unreadable text."""
    architecture = parsed(notation)
    return tuple(spec.kind for spec in architecture.operators) if architecture else ()


@functools.lru_cache(maxsize=16_384)
def mixers_by_use(notation: str) -> tuple[str, ...]:
    """Kinds of token mixers, the most frequent first; among equally frequent ones, the earlier in
    the network."""
    architecture = parsed(notation)
    operators = architecture.operators if architecture else ()
    counts = Counter(spec.kind for spec in operators if spec.mixes_tokens)
    return tuple(kind for kind, _ in counts.most_common())
