"""What every search space can do. A space knows operators and widths, no latency, no training, no torch."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.space import features

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Genotype:
    """A point of a space: what is searched, without the width. Each template adds its own fields."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What all architectures of a space share."""

    vocab: int
    tied: bool
    meta_tokens: int


class SearchSpace(ABC):
    """A set of operator lists and the widths that they may take.

    Genotypes that `sample`, `mutate`, `repair`, `decode`, `find` and `enumerate` return are canonical: two of them are
    equal exactly when they build the same operator list.
    """

    template: str
    max_operators: int

    def __init__(self, *, name: str, path: str, hidden_sizes: tuple[int, ...], model: ModelOptions) -> None:
        self.name = name
        self.path = path
        self.hidden_sizes = hidden_sizes
        self.model = model

    # -- what a template provides --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def mixers(self) -> tuple[OperatorSpec, ...]:
        """The token mixers that the space uses, in the order of its file."""

    @property
    @abstractmethod
    def ffn(self) -> FeedForward | None:
        """The feed-forward network that the space uses, or None."""

    @abstractmethod
    def rules(self) -> dict[str, Any]:
        """The template's own settings, JSON-ready; part of `to_dict`."""

    @abstractmethod
    def operators(self, genotype: Any) -> tuple[OperatorSpec, ...]:
        """The operator list that the genotype builds."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Any:
        """A random genotype."""

    @abstractmethod
    def mutate(self, genotype: Any, rng: np.random.Generator) -> Any:
        """A valid genotype that differs in one factor and builds another operator list."""

    @abstractmethod
    def repair(self, genotype: Any) -> Any:
        """The canonical genotype nearest to one whose fields may break the space's limits."""

    @abstractmethod
    def find(self, operators: Sequence[OperatorSpec]) -> Any | None:
        """The canonical genotype that builds this operator list, or None if the space does not hold it."""

    @abstractmethod
    def encode(self, genotype: Any) -> dict[str, int | str]:
        """The genotype as Optuna parameters; `decode` gives the same genotype back."""

    @abstractmethod
    def decode(self, params: Mapping[str, Any]) -> Any:
        """The repaired genotype of any parameters inside `distributions`."""

    @abstractmethod
    def distributions(self) -> dict[str, BaseDistribution]:
        """The encoding as a static Optuna search space."""

    @abstractmethod
    def size(self) -> int:
        """Number of different operator lists."""

    @abstractmethod
    def enumerate(self) -> Iterator[Any]:
        """Every genotype once, in a fixed order; for small spaces."""

    # -- what follows from it ------------------------------------------------------------------------------------

    def kinds(self) -> tuple[OperatorSpec, ...]:
        """All operators that the space uses."""
        return self.mixers + ((self.ffn,) if self.ffn else ())

    def architecture(self, genotype: Any, hidden: int) -> Architecture:
        """The genotype at one width."""
        return self.build(self.operators(genotype), hidden)

    def build(self, operators: tuple[OperatorSpec, ...], hidden: int) -> Architecture:
        """An operator list with the space's vocabulary, head and meta tokens."""
        return Architecture(hidden=hidden, operators=operators, vocab=self.model.vocab, tied=self.model.tied,
                            meta_tokens=self.model.meta_tokens)

    def fit_width(self, genotype: Any, fits: Callable[[Architecture], bool]) -> Architecture | None:
        """The architecture with the largest hidden size for which `fits` holds; None if it holds for none."""
        return self.fit_operators(self.operators(genotype), fits)

    def fit_operators(self, operators: tuple[OperatorSpec, ...],
                      fits: Callable[[Architecture], bool]) -> Architecture | None:
        """`fit_width` for an operator list, such as a baseline."""
        for hidden in reversed(self.hidden_sizes):
            architecture = self.build(operators, hidden)
            if fits(architecture):
                return architecture
        return None

    def contains(self, architecture: Architecture) -> bool:
        """True if some genotype at some width of the space builds this network."""
        hidden = architecture.hidden
        shared = ModelOptions(vocab=architecture.vocab, tied=architecture.tied, meta_tokens=architecture.meta_tokens)
        if hidden not in self.hidden_sizes or shared != self.model:
            return False
        ours = {spec.resolved(hidden): spec for spec in self.kinds()}
        operators = [ours.get(spec.resolved(hidden)) for spec in architecture.operators]
        known = [spec for spec in operators if spec is not None]
        return len(known) == len(operators) and self.find(known) is not None

    def baselines(self) -> list[tuple[str, tuple[OperatorSpec, ...]]]:
        """The pure-operator models: `mixer f` repeated, and Mamba2 also alone, at full, half and quarter depth.

        Of the study in arXiv 2511.18890 section 2.2, which puts one FFN after each token mixer but none after Mamba2.
        Several depths, because within a latency budget a shallow wide model may beat a deep narrow one (section 2.1).
        """
        ffn = self.ffn or FeedForward()
        kinds = [spec.kind for spec in self.mixers]
        names = {spec: spec.kind if kinds.count(spec.kind) == 1 else str(spec) for spec in self.mixers}
        blocks: list[tuple[str, tuple[OperatorSpec, ...]]] = [(f"{names[spec]} f", (spec, ffn)) for spec in self.mixers]
        blocks += [(names[spec], (spec,)) for spec in self.mixers if spec.kind == "m2"]
        result: dict[str, tuple[OperatorSpec, ...]] = {}
        for text, block in blocks:
            full = max(self.max_operators // len(block), 1)
            for repeats in (full, full // 2, full // 4):
                if repeats:
                    result[f"pure {repeats}x({text})"] = block * repeats
        return list(result.items())

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the entries of `features`."""
        return features.names(self.kinds())

    def features(self, genotype: Any) -> np.ndarray:
        """The genotype as numbers for a surrogate, float64 [len(feature_names)]."""
        return features.describe(self.operators(genotype), self.kinds())

    def to_dict(self) -> dict[str, Any]:
        """All that defines the space, JSON-ready; its name and path do not."""
        return {"template": self.template, "widths": list(self.hidden_sizes),
                "model": {"vocab": self.model.vocab, "tied": self.model.tied, "meta_tokens": self.model.meta_tokens},
                **self.rules()}

    @cached_property
    def hash(self) -> str:
        """16 hex digits; equal for two spaces exactly when all their settings are."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
