"""Architecture: a flat list of operators with a width; its canonical hash, sizes, FLOPs and
notation, also folded by its repeats (`3x(d f m2 f)`) for readers. No torch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flashnas.architecture.notation import MAX_OPERATORS, parse_operators, split_notation
from flashnas.base.documents import COMPACT, fingerprint
from flashnas.base.errors import ArchitectureError, FlashnasError
from flashnas.base.text import has_no, shown
from flashnas.operators import OperatorSpec
from flashnas.operators.spec import PROXY_HEAD_DIM, mean_context

DEFAULT_VOCAB = 131072
MAX_HIDDEN = 2**20  # no published network comes near these limits; beyond them is a typing error
MAX_VOCAB = 2**30
MAX_META_TOKENS = 2**20


@functools.lru_cache(maxsize=4096)  # searches build thousands of networks of the same few operators
def _resolved(spec: OperatorSpec, hidden: int) -> OperatorSpec:
    return spec.resolved(hidden)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A language model: embedding, pre-norm residual operators, final norm, head.

    Attributes:
        hidden: hidden size (width).
        operators: in order, from the embedding to the head.
        vocab: number of tokens.
        tied: the head shares the weight of the embedding.
        meta_tokens: learned tokens that precede every sequence.

    Raises:
        ArchitectureError or OperatorError: when a size does not fit.

    Example:
        >>> import flashnas as fn
        >>> found = fn.Architecture.parse("2048: 3x(d f m2 f)")
        >>> found.hidden, [spec.kind for spec in found.operators[:4]], found.params > 10**8
        (2048, ['d', 'f', 'm2', 'f'], True)
        >>> fn.Architecture.parse(found.notation) == found
        True
    """

    hidden: int
    operators: tuple[OperatorSpec, ...]
    vocab: int = DEFAULT_VOCAB
    tied: bool = True
    meta_tokens: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("hidden", 1, MAX_HIDDEN),
            ("vocab", 2, MAX_VOCAB),
            ("meta_tokens", 0, MAX_META_TOKENS),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                low = type(value) is not int or value < least
                limits = f"of at least {least}" if low else f"of at most {most}"
                raise ArchitectureError(
                    f"architecture: {name} must be a whole number {limits}; got {value!r}"
                )
        if type(self.tied) is not bool:
            raise ArchitectureError(
                f"architecture: tied must be true or false; got {shown(self.tied)}"
            )
        if not self.operators:
            raise ArchitectureError("architecture: operators must not be empty")
        if len(self.operators) > MAX_OPERATORS:
            raise ArchitectureError(
                f"architecture: at most {MAX_OPERATORS} operators; got {len(self.operators)}"
            )
        # blocks repeat the same few objects
        for spec, _ in self.repeated():
            _resolved(spec, self.hidden)

    # -- identity

    def canonical(self) -> Architecture:
        """The same network with every operator option explicit."""
        return replace(
            self, operators=tuple(_resolved(spec, self.hidden) for spec in self.operators)
        )

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits; equal for two architectures exactly when they build the same network."""
        full = self.canonical()
        data = full.to_dict()
        data["operators"] = [[spec.kind, spec.identity()] for spec in full.operators]
        return fingerprint(data, COMPACT)

    # -- sizes

    @property
    def params(self) -> int:
        """All parameters; a tied head counts once."""
        embedding = self.vocab * self.hidden * (1 if self.tied else 2)
        return (
            embedding
            + self.meta_tokens * self.hidden
            + self.hidden
            + sum(count * spec.params(self.hidden) for spec, count in self.repeated())
        )

    @property
    def active_params(self) -> int:
        """Parameters without those of experts that one token does not pass."""
        idle = (
            count * (spec.params(self.hidden) - spec.active_params(self.hidden))
            for spec, count in self.repeated()
        )
        return self.params - sum(idle)

    def repeated(self) -> list[tuple[OperatorSpec, int]]:
        """The operators, each object once, and how often it stands."""
        objects = {id(spec): spec for spec in self.operators}
        counts = Counter(map(id, self.operators))
        return [(spec, counts[key]) for key, spec in objects.items()]

    def flops_per_token(self, length: int) -> float:
        """FLOPs of a forward pass over texts of `length` tokens, for each of them, with the head."""
        total = length + self.meta_tokens
        body = sum(
            spec.flops(self.hidden, mean_context(total, spec.window_tokens))
            for spec in self.operators
        )
        return total / length * body + 2 * self.hidden * self.vocab

    def cache_bytes(self, context: int, dtype_bytes: int = 2) -> int:
        """Bytes of caches and states per sequence after `context` tokens (meta tokens come on
        top).
        """
        total = context + self.meta_tokens
        return sum(spec.cache_bytes(self.hidden, total, dtype_bytes) for spec in self.operators)

    def scaled(self, factor: int, least_dim: int = PROXY_HEAD_DIM) -> Architecture:
        """The proxy of this architecture: hidden / factor, heads, states, windows (not below
        `least_dim`) and meta tokens."""
        if type(least_dim) is not int or least_dim < 2:
            raise ArchitectureError(
                f"heads, states and windows must keep a size of at least 2; got {shown(least_dim)}"
            )
        if factor == 1:
            return self
        if type(factor) is not int or factor < 1 or self.hidden % factor:
            raise ArchitectureError(
                f"width factor must divide the hidden size {self.hidden}; got {shown(factor)}"
            )
        return replace(
            self,
            hidden=self.hidden // factor,
            meta_tokens=-(-self.meta_tokens // factor),
            operators=tuple(spec.scaled(self.hidden, factor, least_dim) for spec in self.operators),
        )

    # -- text

    def __str__(self) -> str:
        return self.notation

    @property
    def notation(self) -> str:
        """The notation without repeats; `parse` gives the same object back."""
        header = []
        if self.vocab != DEFAULT_VOCAB:
            header.append(f"vocab={self.vocab}")
        if not self.tied:
            header.append("tied=false")
        if self.meta_tokens:
            header.append(f"meta={self.meta_tokens}")
        options = f"({','.join(header)})" if header else ""
        return f"{self.hidden}{options}: {' '.join(map(str, self.operators))}"

    def to_dict(self) -> dict[str, Any]:
        """JSON- and YAML-ready; `from_dict` gives the same object back."""
        return {
            "hidden": self.hidden,
            "vocab": self.vocab,
            "tied": self.tied,
            "meta_tokens": self.meta_tokens,
            "operators": [str(spec) for spec in self.operators],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Raises ArchitectureError naming a missing or unknown key."""
        if not isinstance(data, Mapping):
            raise ArchitectureError(f"architecture must be a mapping; got {shown(data)}")
        allowed = [field.name for field in fields(cls)]
        for key in (*data, "hidden", "operators"):
            if key not in allowed:
                raise ArchitectureError(has_no("architecture", "key", key, allowed))
            if key not in data:
                raise ArchitectureError(f"architecture needs the key {key!r}")
        if not isinstance(data["operators"], list | tuple) or not all(
            isinstance(o, str) for o in data["operators"]
        ):
            raise ArchitectureError(
                "architecture.operators must be a list of operators; got"
                f" {shown(data['operators'])}"
            )
        operators = parse_operators(" ".join(data["operators"]))
        return cls(**{**data, "operators": operators})

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Parse the notation; raises ArchitectureError or OperatorError with the place and what is
        allowed there."""
        if not isinstance(text, str):
            raise ArchitectureError(
                f"architecture must be text, such as '2048: 3x(d f m2 f)'; got {shown(text)}"
            )
        hidden, header, operators = split_notation(text)
        names = {"vocab": "vocab", "tied": "tied", "meta": "meta_tokens"}
        for key in header:
            if key not in names:
                raise ArchitectureError(has_no("header", "option", key, names))
        return cls(
            hidden=hidden,
            operators=parse_operators(operators),
            **{names[key]: value for key, value in header.items()},
        )


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


@functools.lru_cache(maxsize=16_384)
def mixers_by_use(notation: str) -> tuple[str, ...]:
    """Kinds of token mixers, the most frequent first; among equally frequent ones, the earlier in
    the network."""
    architecture = parsed(notation)
    operators = architecture.operators if architecture else ()
    counts = Counter(spec.kind for spec in operators if spec.mixes_tokens)
    return tuple(kind for kind, _ in counts.most_common())
