"""Many networks of a few compositions, as arrays. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self, overload

import numpy as np

from flashnas.architecture.architecture import DEFAULT_VOCAB, Architecture
from flashnas.operators import OperatorSpec
from flashnas.operators.spec import mean_context

Operators = tuple[OperatorSpec, ...]


class Networks(Sequence[Architecture]):
    """Architectures by composition and width; one is built when it is asked for by its index.

    A composition is an operator list without a width. What is the same for all widths of it is
    found once, and sums over operators are arrays.

    Args:
        compositions: operator lists [C].
        composition: of each network, an index of `compositions` [N].
        hidden: width of each network [N].
        tied: whether head and embedding share their weight, [N] or one value for all.
        vocab, meta_tokens: of all networks.

    Example:
        >>> import numpy as np
        >>> from flashnas.architecture import Architecture
        >>> from flashnas.architecture.networks import Networks
        >>> stack = Architecture.parse("2048: 12x(a f)")
        >>> networks = Networks([stack.operators], np.array([0, 0]), np.array([2048, 1024]))
        >>> networks[0] == stack, networks.params[0] == stack.params
        (True, True)
    """

    def __init__(
        self,
        compositions: Sequence[Operators],
        composition: np.ndarray,
        hidden: np.ndarray,
        *,
        tied: np.ndarray | bool = True,
        vocab: int = DEFAULT_VOCAB,
        meta_tokens: int = 0,
    ) -> None:
        self.compositions = compositions
        self.composition, self.hidden = composition, hidden
        self.tied = np.broadcast_to(np.asarray(tied, bool), hidden.shape)
        self.vocab, self.meta_tokens = vocab, meta_tokens

    @classmethod
    def of(cls, networks: Sequence[Architecture]) -> Networks:
        """Architectures of one vocabulary and number of meta tokens. Raises ValueError for others."""
        if isinstance(networks, Networks):
            return networks
        shared = {(network.vocab, network.meta_tokens) for network in networks}
        if len(shared) > 1:
            raise ValueError("Networks.of: the networks have different vocabularies or meta tokens")
        vocab, meta_tokens = shared.pop() if shared else (DEFAULT_VOCAB, 0)
        return cls(
            [network.operators for network in networks],
            np.arange(len(networks)),
            np.array([network.hidden for network in networks], int),
            tied=np.array([network.tied for network in networks], bool),
            vocab=vocab,
            meta_tokens=meta_tokens,
        )

    def __len__(self) -> int:
        return len(self.hidden)

    @overload
    def __getitem__(self, index: int) -> Architecture: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return Architecture(
            hidden=int(self.hidden[index]),
            operators=self.compositions[self.composition[index]],
            vocab=self.vocab,
            tied=bool(self.tied[index]),
            meta_tokens=self.meta_tokens,
        )

    def __iter__(self) -> Iterator[Architecture]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: np.ndarray | Sequence[int]) -> Self:
        """Those at these indices."""
        index = np.asarray(indices, int)
        other = type(self)(
            self.compositions,
            self.composition[index],
            self.hidden[index],
            tied=self.tied[index],
            vocab=self.vocab,
            meta_tokens=self.meta_tokens,
        )
        other.__dict__["counts"] = self.counts  # of the compositions, which are the same
        return other

    @cached_property
    def each_composition(self) -> tuple[Self, np.ndarray]:
        """One network of each composition that occurs [C], for what does not depend on the width; and
        of each network the index of the one of its composition [N]."""
        _, first, of = np.unique(self.composition, return_index=True, return_inverse=True)
        return self.take(first), of

    # -- sums over operators -----------------------------------------------------------------------

    @cached_property
    def counts(self) -> tuple[list[OperatorSpec], list[dict[int, int]]]:
        """The operators that occur, each once, and of each composition how often: index -> number."""
        places: dict[OperatorSpec, int] = {}
        of_object: dict[int, int] = {}
        found = []
        for operators in self.compositions:
            by_object = Counter(map(id, operators))  # compositions share a few objects
            if not by_object.keys() <= of_object.keys():
                for spec in operators:
                    of_object[id(spec)] = places.setdefault(spec, len(places))
            counts: dict[int, int] = {}
            for key, count in by_object.items():
                counts[of_object[key]] = counts.get(of_object[key], 0) + count
            found.append(counts)
        return list(places), found

    @cached_property
    def _terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[OperatorSpec, int]]]:
        """(network [T], pair [T], count [T], pairs): which operator at which width stands how often
        in which network."""
        specs, counts = self.counts
        sizes = np.array([len(counts[index]) for index in self.composition], int)
        network = np.repeat(np.arange(len(self)), sizes)
        spec = np.array([s for index in self.composition for s in counts[index]], int)
        count = np.array([n for index in self.composition for n in counts[index].values()], float)
        widths, width = np.unique(self.hidden, return_inverse=True)
        keys, pair = np.unique(
            spec * len(widths) + np.repeat(width.reshape(-1), sizes), return_inverse=True
        )
        pairs = [(specs[key // len(widths)], int(widths[key % len(widths)])) for key in keys]
        return network, pair.reshape(-1), count, pairs

    @property
    def pairs(self) -> list[tuple[OperatorSpec, int]]:
        """The operators that occur, each at its widths: (operator, width)."""
        return self._terms[-1]

    def totals(self, value: Callable[[OperatorSpec, int], float]) -> np.ndarray:
        """Sum over the operators of each network [N]. value: (operator, width) -> number; asked once
        for each pair. The order of the sum does not depend on the machine."""
        return self.totals_of([value(spec, hidden) for spec, hidden in self.pairs])

    def totals_of(self, values: Iterable[float]) -> np.ndarray:
        """`totals` of values that are known for each of `pairs`."""
        network, pair, count, _ = self._terms
        weights = count * np.fromiter(values, float)[pair]
        return np.bincount(network, weights=weights, minlength=len(self))

    def largest_of(self, values: Iterable[float]) -> np.ndarray:
        """The largest value of the operators of each network [N]; values: of each of `pairs`."""
        network, pair, _, _ = self._terms
        largest = np.zeros(len(self))
        np.maximum.at(largest, network, np.fromiter(values, float)[pair])
        return largest

    @cached_property
    def outer_params(self) -> np.ndarray:
        """Parameters of embedding, head, meta tokens and final norm [N]."""
        return (self.vocab * (2.0 - self.tied) + self.meta_tokens + 1) * self.hidden

    @cached_property
    def params(self) -> np.ndarray:
        """Of each network, a tied head counted once [N], float64."""
        return self.outer_params + self.totals(lambda spec, hidden: spec.params(hidden))

    @cached_property
    def active_params(self) -> np.ndarray:
        """Without those of experts that one token does not pass [N], float64."""
        return self.outer_params + self.totals(lambda spec, hidden: spec.active_params(hidden))

    def flops_per_token(self, length: int) -> np.ndarray:
        """`Architecture.flops_per_token` of each [N]."""
        total = length + self.meta_tokens
        body = self.totals(
            lambda spec, hidden: spec.flops(hidden, mean_context(total, spec.window_tokens))
        )
        return total / length * body + 2 * self.hidden * self.vocab


def identities(networks: Sequence[Any]) -> list[Any]:
    """What tells the networks of one space apart, without a digest of each [N]."""
    if isinstance(networks, Networks):
        sizes = zip(networks.hidden.tolist(), networks.tied.tolist(), strict=True)
        stacks = (networks.compositions[index] for index in networks.composition)
        return [(stack, *size) for stack, size in zip(stacks, sizes, strict=True)]
    return [
        (each.operators, each.hidden, each.tied) if isinstance(each, Architecture) else each.hash
        for each in networks
    ]


def taken(networks: Sequence[Any], indices: np.ndarray) -> Sequence[Any]:
    """Those at these indices; networks of a user's own class are a list."""
    if isinstance(networks, Networks):
        return networks.take(indices)
    return [networks[index] for index in indices]


def joined(one: Sequence[Any], other: Sequence[Any]) -> Sequence[Any]:
    """The networks of both, which are of one space."""
    if not (isinstance(one, Networks) and isinstance(other, Networks)):
        return [*one, *other]
    return Networks(
        [*one.compositions, *other.compositions],
        np.concatenate([one.composition, other.composition + len(one.compositions)]),
        np.concatenate([one.hidden, other.hidden]),
        tied=np.concatenate([one.tied, other.tied]),
        vocab=one.vocab,
        meta_tokens=one.meta_tokens,
    )
