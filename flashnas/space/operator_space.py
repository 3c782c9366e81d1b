"""Spaces of networks that are built from flashnas' operators: latency tables answer for them."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from flashnas.architecture import DEFAULT_VOCAB, Architecture
from flashnas.architecture.networks import Networks
from flashnas.base.errors import SpaceError
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space.base import G, SearchSpace


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What all architectures of a space share."""

    vocab: int = DEFAULT_VOCAB
    tied: bool = True
    meta_tokens: int = 0


class OperatorSpace(SearchSpace[G]):
    """A set of operator lists and the widths that they may take. The width is not part of a
    genotype: the search takes the largest one that meets the budgets.

    A template provides `kinds`, `own_settings`, `operators`, `find`, and of `SearchSpace` the
    methods `sample`, `mutate`, `repair`, `encode`, `decode`, `distributions`, `size` and
    `enumerate`.

    Attributes:
        model: vocabulary, head and meta tokens of all architectures.
        max_operators: length of the longest operator list.
        width_factor: by which short training shrinks the networks where the user names no recipe;
            None: the recipe's own. It is not part of `to_dict`: the set of networks does not depend
            on it.
    """

    max_operators: int
    width_factor: int | None = None

    def __init__(
        self, *, name: str, path: str, hidden_sizes: tuple[int, ...], model: ModelOptions
    ) -> None:
        self.name = name
        self.path = path
        self.hidden_sizes = hidden_sizes
        self.model = model

    # -- what a template provides

    @abstractmethod
    def kinds(self) -> tuple[OperatorSpec, ...]:
        """All operators that the space uses, in the order of its file."""

    def kinds_at(self, hidden: int) -> tuple[OperatorSpec, ...]:
        """Those of networks of a width."""
        return self.kinds()

    @abstractmethod
    def own_settings(self) -> dict[str, Any]:
        """The template's own settings, JSON-ready; part of `to_dict`."""

    @abstractmethod
    def operators(self, genotype: G) -> tuple[OperatorSpec, ...]:
        """The operator list that the genotype builds."""

    def find(self, operators: Sequence[OperatorSpec]) -> G | None:
        """The canonical genotype that builds this operator list, or None if the space does not hold
        it. Only `locate` needs it.
        """
        raise NotImplementedError

    # -- what follows from it

    def with_vocab(self, vocab: int) -> Self:
        """The same space of networks with another vocabulary."""
        other = copy.copy(self)
        other.model = replace(self.model, vocab=vocab)
        other.__dict__.pop("hash", None)  # of the space as it was
        return other

    def count_networks(self) -> float:
        """Genotypes at all their widths."""
        return self.size() * len(self.hidden_sizes)

    def architectures(self, genotype: G) -> list[Architecture]:
        return list(self.networks([genotype])[0])

    def networks(self, genotypes: Sequence[G]) -> tuple[Networks, np.ndarray]:
        genotype = np.repeat(np.arange(len(genotypes)), len(self.hidden_sizes))
        networks = Networks(
            [self.operators(each) for each in genotypes],
            genotype,
            np.tile(np.array(self.hidden_sizes[::-1], int), len(genotypes)),
            **vars(self.model),
        )
        return networks, genotype

    def architecture(self, genotype: G, hidden: int) -> Architecture:
        """The genotype at one width."""
        return self.build(self.operators(genotype), hidden)

    def build(self, operators: tuple[OperatorSpec, ...], hidden: int) -> Architecture:
        """An operator list with the space's vocabulary, head and meta tokens."""
        return Architecture(hidden=hidden, operators=operators, **vars(self.model))

    def contains(self, architecture: Architecture) -> bool:
        """True if some genotype at some width of the space builds this network."""
        shared = vars(self.model)
        return (
            all(getattr(architecture, name) == value for name, value in shared.items())
            and self.locate(architecture) is not None
        )

    def largest_of(self, network: Architecture) -> list[str]:
        ends = {
            "width": network.hidden == max(self.hidden_sizes),
            "depth": len(network.operators) == self.max_operators,
        }
        return [name for name, reached in ends.items() if reached]

    def locate(self, architecture: Architecture) -> G | None:
        """The genotype whose operators, at one of the space's widths, are those of a network,
        whatever its vocabulary; or None."""
        hidden = architecture.hidden
        if hidden not in self.hidden_sizes:
            return None
        own = {spec.resolved(hidden): spec for spec in self.kinds()}
        operators = [own.get(spec.resolved(hidden)) for spec in architecture.operators]
        specs = [spec for spec in operators if spec is not None]
        return self.find(specs) if len(specs) == len(operators) else None

    def baselines(self) -> list[tuple[str, list[Architecture]]]:
        """The pure models, each at every width."""
        return [
            (label, [self.build(operators, hidden) for hidden in reversed(self.hidden_sizes)])
            for label, operators in self.pure_models()
        ]

    def pure_models(self) -> list[tuple[str, tuple[OperatorSpec, ...]]]:
        """`mixer f` repeated, and without `f` a mixer that stands alone, at full, half and quarter
        depth (arXiv 2511.18890, section 2.2): within a latency budget a shallow wide model may beat
        a deep narrow one."""
        ffn = next((spec for spec in self.kinds() if isinstance(spec, FeedForward)), FeedForward())
        mixers = [spec for spec in self.kinds() if spec.mixes_tokens]
        counts = Counter(spec.kind for spec in mixers)
        names = {spec: spec.kind if counts[spec.kind] == 1 else str(spec) for spec in mixers}
        blocks: list[tuple[str, tuple[OperatorSpec, ...]]] = [
            *((f"{names[spec]} f", (spec, ffn)) for spec in mixers),
            *((names[spec], (spec,)) for spec in mixers if spec.stands_alone),
        ]
        result: dict[str, tuple[OperatorSpec, ...]] = {}
        for text, block in blocks:
            full = max(self.max_operators // len(block), 1)
            for repeats in (full, full // 2, full // 4):
                if repeats:
                    result[f"pure {repeats}x({text})"] = block * repeats
        return list(result.items())

    def probes(self) -> Iterator[Architecture]:
        """Networks with each operator at each width, for what must answer for all. Each is in a
        pure model where there is one: the largest batch of a single operator would be one that no
        network has."""
        models = [operators for _, operators in self.pure_models()]
        for hidden in self.hidden_sizes:
            for spec in self.kinds_at(hidden):
                operators = next((operators for operators in models if spec in operators), (spec,))
                yield self.build(operators, hidden)

    def features(self, genotype: G) -> np.ndarray:
        """Counts, shares and switches of the operator list (`list_features`)."""
        return list_features(self.operators(genotype), self.kinds())

    def to_dict(self) -> dict[str, Any]:
        return {
            "template": self.template,
            "widths": list(self.hidden_sizes),
            "model": asdict(self.model),
            **self.own_settings(),
        }

    # -- for templates

    def first_other(self, genotype: G, changes: Iterable[G]) -> G:
        """The first change that gives another operator list, repaired."""
        for repaired in map(self.repair, changes):
            if repaired != genotype:
                return repaired
        raise SpaceError(f"{self.path}: the space holds one operator list only; nothing to mutate")


# -- genotypes as numbers, for a model of the loss -------------------------------------------------


PARTS = 3  # of the depth, for each of which the shares of kinds are counted


def list_features(operators: Sequence[OperatorSpec], kinds: Sequence[OperatorSpec]) -> np.ndarray:
    """A nonempty operator list as numbers, float64 [K + 3 K + 3].

    The count of each kind, its share in each third of the depth, the share of feed-forward layers,
    the depth, and how often the mixer changes. An operator on a border counts in both thirds, by
    the part of it that lies in each.
    """
    depth = len(operators)
    index = {spec: i for i, spec in enumerate(kinds)}
    one_hot = np.eye(len(kinds))[[index[spec] for spec in operators]]
    edges = np.arange(depth + 1) * PARTS / depth
    starts = np.arange(PARTS)[:, None]
    within = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    mixers = [spec for spec in operators if spec.mixes_tokens]
    changes = sum(one != other for one, other in itertools.pairwise(mixers))
    return np.concatenate(
        [
            one_hot.sum(0),
            (np.clip(within, 0.0, None) @ one_hot).ravel(),
            [1.0 - len(mixers) / depth, depth, changes],
        ]
    )
