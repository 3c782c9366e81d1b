"""The contract between a search and its space. No latency, no training, no torch, and no operator
of flashnas."""

from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from flashnas.base.documents import COMPACT, LocatedDict, fingerprint
from flashnas.base.errors import SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

G = TypeVar("G", bound=Hashable)
Value = int | float | str
"""One value of an encoding."""


class ArchitectureLike(Protocol):
    """What a search needs of a network: `flashnas.architecture.Architecture`, or a class of one's
    own.
    """

    @property
    def notation(self) -> str:
        """One line for people that describes the network in full."""

    @property
    def hash(self) -> str:
        """Equal for two objects exactly when they are the same network; it is never trained
        twice.
        """

    def to_dict(self) -> dict[str, Any]:
        """The network, JSON-ready."""


class SearchSpace(ABC, Generic[G]):
    """A set of networks that a search can draw from, change and encode.

    A space of one's own implements six methods: `sample`, `mutate`, `encode`, `decode`,
    `distributions` and `architectures`. All others have a default. A space that builds networks
    from the operators of flashnas derives from `OperatorSpace` instead, which also lets latency
    tables answer for it.

    G is the type of its genotypes: hashable, compared by value, printed by `str`. Genotypes are
    canonical: two that these methods return are equal exactly when they build the same networks.
    The search then trains nothing twice.

    All randomness comes from the generator that is passed in, so that one seed gives one
    trajectory.

    Attributes:
        template: the name under which space files ask for this class: its name in
            `flashnas.space.load.TEMPLATES`.
        name: short name for messages and run.yaml.
        path: the file that defines the space, or an empty string.

    Example:
        >>> import flashnas as fn, numpy as np
        >>> space = fn.load_space("tiny")
        >>> isinstance(space, fn.SearchSpace), space.sample(np.random.default_rng(0)) is not None
        (True, True)
    """

    template: ClassVar[str] = ""
    name: str = "space"
    path: str = ""

    @classmethod
    def from_config(cls, data: LocatedDict, *, name: str) -> Self:
        """The space that a YAML file describes; only templates need it. SpaceError in one line with
        file, line, rule and value.

        Args:
            data: the file's mapping, with the key `template`; `data.place(key)` gives file and line
                for messages.
            name: the file's name without its suffix.
        """
        raise SpaceError(
            f"{data.place('template')}: template {data['template']!r} cannot be read from a"
            " file; its class has no from_config"
        )

    # -- what a space has to provide

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> G:
        """A random genotype."""

    @abstractmethod
    def mutate(self, genotype: G, rng: np.random.Generator) -> G:
        """A small random change: a genotype that differs from the parent, which is not changed.
        rng: the only source of randomness. SpaceError if the space holds one genotype only."""

    @abstractmethod
    def encode(self, genotype: G) -> dict[str, Value]:
        """The genotype as parameters inside `distributions`; `decode` gives the same genotype
        back.
        """

    @abstractmethod
    def decode(self, params: Mapping[str, Any]) -> G:
        """The canonical genotype of any parameters inside `distributions`."""

    @abstractmethod
    def distributions(self) -> dict[str, BaseDistribution]:
        """The encoding as a static Optuna search space: the same parameters for every genotype."""

    @abstractmethod
    def architectures(self, genotype: G) -> Sequence[ArchitectureLike]:
        """The networks that the genotype may become, from the largest to the smallest; at least
        one.

        A search takes the first one that meets its budgets. A space that searches the width itself
        returns one network.
        """

    # -- what a space may provide

    def networks(self, genotypes: Sequence[G]) -> tuple[Sequence[Any], np.ndarray]:
        """The networks that some genotypes may become, each from its largest to its smallest; and of
        each network the index of its genotype [N]."""
        of_each = [self.architectures(genotype) for genotype in genotypes]
        sizes = [len(networks) for networks in of_each]
        return list(itertools.chain(*of_each)), np.repeat(np.arange(len(sizes)), sizes)

    def any_network(self) -> Any:
        """Some network of the space, always the same."""
        return self.architectures(self.sample(np.random.default_rng(0)))[-1]

    def repair(self, genotype: G) -> G:
        """The canonical genotype nearest to one whose fields may break the space's limits."""
        return genotype

    def largest_of(self, network: Any) -> Sequence[str]:
        """What no network of the space has more of than this one: `width`, `depth`."""
        return ()

    def baselines(self) -> Sequence[tuple[str, Sequence[ArchitectureLike]]]:
        """Networks to compare with: a label, and sizes from the largest to the smallest, as in
        `architectures`."""
        return []

    def size(self) -> float:
        """Number of genotypes, or an upper bound: here the number of different encodings; infinite
        with a real parameter that has no step."""
        grids = [_values(distribution) for distribution in self.distributions().values()]
        return math.inf if None in grids else math.prod(len(grid) for grid in grids if grid)

    def count_networks(self) -> float:
        """Genotypes at all their widths; here the genotypes."""
        return self.size()

    def enumerate(self) -> Iterator[G]:
        """Every genotype once, in a fixed order; for small spaces. Raises SpaceError for an
        infinite one.
        """
        distributions = self.distributions()
        grids = [_values(distribution) for distribution in distributions.values()]
        if None in grids:
            raise SpaceError(
                f"space {self.name!r} has a real parameter without a step and cannot be enumerated"
            )
        seen: set[G] = set()
        for values in itertools.product(*filter(None, grids)):
            genotype = self.decode(dict(zip(distributions, values, strict=True)))
            if genotype not in seen:
                seen.add(genotype)
                yield genotype

    def features(self, genotype: G) -> np.ndarray:
        """The genotype as numbers for a surrogate model of the loss, float64 [F].

        Here: numbers of the encoding as they are (their logarithm where the distribution is
        logarithmic), and one column of 0 and 1 for each choice.
        """
        values, columns = self.encode(genotype), list[float]()
        for name, distribution in self.distributions().items():
            value: Any = values[name]
            if (choices := getattr(distribution, "choices", None)) is not None:
                columns += [float(value == choice) for choice in choices]
            else:
                columns.append(math.log(value) if getattr(distribution, "log", False) else value)
        return np.array(columns, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """All that defines the space, JSON-ready; its name and path do not. A run continues only
        with an equal space.

        Here: class and encoding. A space with further settings that change its networks adds them.
        """
        from optuna.distributions import distribution_to_json

        return {
            "template": self.template or f"{type(self).__module__}.{type(self).__qualname__}",
            "distributions": {
                name: json.loads(distribution_to_json(distribution))
                for name, distribution in self.distributions().items()
            },
        }

    @cached_property
    def hash(self) -> str:
        """16 hex digits; equal for two spaces exactly when all their settings are."""
        return fingerprint(self.to_dict(), COMPACT)


def _values(distribution: Any) -> Sequence[Value] | None:
    """Every value of an Optuna distribution, in order; None for a real one without a step."""
    if (choices := getattr(distribution, "choices", None)) is not None:
        return tuple(choices)
    low = distribution.low
    high = distribution.high
    step = distribution.step
    if low == high:
        return (low,)
    if isinstance(low, int):
        return range(low, high + 1, step)
    if step is None:
        return None
    return tuple(low + i * step for i in range(round((high - low) / step) + 1))
