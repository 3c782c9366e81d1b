"""Networks of families that programs load: which family, how wide, how deep, where the attention,
which experts.

A genotype is one network. Attention stands at one distance, one feed-forward network or layer of
experts is behind each token mixer, and shapes are those of published models (flashnas/families). All
networks of such a space can be enumerated.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flashnas.architecture import DEFAULT_VOCAB, MAX_VOCAB, Architecture, parse_operators
from flashnas.architecture.networks import Networks
from flashnas.base.documents import LocatedDict, convert
from flashnas.base.errors import SpaceError
from flashnas.base.text import one_of, range_of, tokens_text
from flashnas.families.family import Family, Size, families
from flashnas.operators import OperatorSpec
from flashnas.space.base import Value
from flashnas.space.load import read_choices, read_range, whole_number
from flashnas.space.operator_space import ModelOptions, OperatorSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

PARAMS = "0.1B..4B"  # in all, unless a file or a search asks for others
NO, ANY, ONLY = EXPERTS = "none", "any", "only"  # which networks may have mixtures of experts
WIDTH_FACTOR = 32  # by which short trainings shrink networks, where the smallest stays at ..
LEAST_WIDTH, USUAL_WIDTH = 16, 64  # .. the first, and the largest need not be above the second
OTHERS = "every", "ffn", "window"  # fields of a genotype beside family, width and depth
NEAR_LAYERS = 4  # by which one mutation changes the depth at most


@dataclass(frozen=True, kw_only=True)
class ServedFile:
    """What a file of this template holds. layers: fewest and most; those of the families if absent."""

    template: str
    families: list[str]
    vocab: int = DEFAULT_VOCAB
    params: str = PARAMS
    experts: str = ANY
    layers: int | list[int] | None = None


@dataclass(frozen=True)
class ServedGenotype:
    """One network: `layers` token mixers, of which attention is one in `every`. ffn: number of the
    feed-forward part among those of the family. window: of the others, in tokens; 0: they have none."""

    family: str
    hidden: int
    layers: int
    every: int
    ffn: int = 0
    window: int = 0

    def __str__(self) -> str:
        text = f"{self.family} {self.hidden}: {self.layers} layers, attention 1 in {self.every}"
        text += f", windows of {self.window}" if self.window else ""
        search = families()[self.family].search
        return f"{text}, {search.ffn[self.ffn].operator}" if search.sparse else text


class ServedSpace(OperatorSpace[ServedGenotype]):
    """Networks of some families within a range of parameters.

    Args:
        families: names in `flashnas.families.family.families()`.
        model: the vocabulary; whether the head is tied is stated by each family.
        params: fewest and most parameters in all.
        experts: which of the families count: those without experts, any, or those with them only.
        layers: fewest and most; None: those of the families.

    Attributes:
        families: those that count. sizes: of each genotype the parameters.
        param_range: fewest and most of them.
    """

    template = "served"

    def __init__(
        self,
        *,
        name: str,
        path: str,
        families: Sequence[str],
        model: ModelOptions,
        params: tuple[float, float],
        experts: str = ANY,
        layers: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(name=name, path=path, hidden_sizes=(), model=model)
        self.named, self.params, self.experts, self.layers = families, params, experts, layers
        self.families = self.counting(experts)
        self.sizes = self._counted()
        self.genotypes = tuple(self.sizes)
        if not self.genotypes:
            limits = f"params {'..'.join(map(tokens_text, params))}, experts {experts}"
            raise SpaceError(f"{path or name}: no network of {', '.join(families)} has {limits}")
        counts = self.sizes.values()
        self.param_range = min(counts), max(counts)
        self.hidden_sizes = tuple(sorted({genotype.hidden for genotype in self.genotypes}))
        self.max_operators = 2 * max(genotype.layers for genotype in self.genotypes)
        low, high = self.hidden_sizes[0], self.hidden_sizes[-1]
        factor = min(WIDTH_FACTOR, low // LEAST_WIDTH, max(high // USUAL_WIDTH, 1))
        self.width_factor = 1 << (factor.bit_length() - 1)  # divides all widths

    @classmethod
    def of_family(cls, name: str) -> Self:
        """All networks of one family, with its vocabulary."""
        return cls(
            name=name,
            path="",
            families=(name,),
            model=ModelOptions(vocab=families()[name].vocab),
            params=range_of(PARAMS),
        )

    @classmethod
    def from_config(cls, data: LocatedDict, *, name: str) -> Self:
        """Raises SpaceError with file, line, rule and value."""
        file = convert(data, ServedFile, error=SpaceError, name="search space", closed=True)
        try:
            params = range_of(file.params)
        except ValueError as error:
            raise SpaceError(f"{data.place('params')}: params {error}") from None
        if file.experts not in EXPERTS:
            raise SpaceError(one_of(f"{data.place('experts')}: experts", file.experts, EXPERTS))
        return cls(
            name=name,
            path=data.path,
            families=read_choices(data, "families", "", list(families())),
            model=ModelOptions(
                vocab=whole_number(data.place("vocab"), "vocab", file.vocab, 2, MAX_VOCAB)
            ),
            params=params,
            experts=file.experts,
            layers=read_range(data, "layers", "") if "layers" in data else None,
        )

    def _with(self, **changed: Any) -> Self:
        settings = {
            name: getattr(self, name)
            for name in ("name", "path", "model", "params", "experts", "layers")
        }
        return type(self)(**{"families": self.named, **settings, **changed})

    def with_vocab(self, vocab: int) -> Self:
        return self._with(model=dataclasses.replace(self.model, vocab=vocab))

    def restricted(
        self,
        params: tuple[float, float] | None = None,
        experts: str | None = None,
        families: Sequence[str] = (),
    ) -> Self:
        """The networks with other limits in place of the space's own. A range of parameters from 0
        on begins where that of the space does, so that it is an upper limit and nothing else."""
        least, most = params or self.params
        if not least and self.params[0] < most:
            least = self.params[0]
        changed = {"params": (least, most), "experts": experts or self.experts}
        return self._with(families=families or self.named, **changed)

    def counting(self, experts: str | None) -> tuple[str, ...]:
        """The families that count; None: as the space says."""
        sorts = {name: ONLY if families()[name].search.sparse else NO for name in self.named}
        return tuple(name for name in sorts if (experts or self.experts) in (ANY, sorts[name]))

    # -- the networks

    def _counted(self) -> dict[ServedGenotype, int]:
        """All networks in a fixed order, with their parameters (`Architecture.params`, without
        building it). Of distances at which as many layers attend, the one that spreads them most
        evenly stands."""
        found = {}
        for name in self.families:
            search = families()[name].search
            low, high = self.layers or search.layers
            shapes = [
                (layers, every, len(attention_places(layers, every, search.last)))
                for layers in range(search.layers[0], search.layers[1] + 1, search.step)
                for every in _distances(layers, tuple(search.every), search.last)
                if low <= layers <= high
            ]
            for hidden, choice in itertools.product(_widths(families()[name]), _choices(name)):
                specs = _specs(name, hidden, *choice)
                *others, attention, part = (spec.params(hidden) for spec in specs)
                mixer = [*others, attention][0]
                outer = hidden * (1 + self.model.vocab * (2 - search.tied))
                for layers, every, attending in shapes:
                    params = (
                        outer + attending * attention + (layers - attending) * mixer + layers * part
                    )
                    if self.params[0] <= params <= self.params[1]:
                        found[ServedGenotype(name, hidden, layers, every, *choice)] = params
        return found

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        """`_row` of all networks."""
        return np.array([_row(genotype) for genotype in self.genotypes])

    def operators(self, genotype: ServedGenotype) -> tuple[OperatorSpec, ...]:
        return _operators(genotype)

    def architecture(self, genotype: ServedGenotype, hidden: int) -> Architecture:
        """The genotype at another width of its family."""
        at = dataclasses.replace(genotype, hidden=hidden)
        if hidden not in _widths(families()[genotype.family]):
            raise SpaceError(f"family {genotype.family} has no width {hidden}")
        return Architecture(
            hidden=hidden,
            operators=_operators(at),
            vocab=self.model.vocab,
            tied=families()[genotype.family].search.tied,
        )

    def networks(self, genotypes: Sequence[ServedGenotype]) -> tuple[Networks, np.ndarray]:
        index = np.arange(len(genotypes))
        networks = Networks(
            [_operators(genotype) for genotype in genotypes],
            index,
            np.array([genotype.hidden for genotype in genotypes], int),
            tied=np.array([families()[each.family].search.tied for each in genotypes], bool),
            vocab=self.model.vocab,
        )
        return networks, index

    def kinds(self) -> tuple[OperatorSpec, ...]:
        specs = (spec for hidden in self.hidden_sizes for spec in self.kinds_at(hidden))
        return tuple(dict.fromkeys(specs))

    def kinds_at(self, hidden: int) -> tuple[OperatorSpec, ...]:
        specs = (
            spec
            for name in self.families
            if hidden in _widths(families()[name])
            for choice in _choices(name)
            for spec in _specs(name, hidden, *choice)
        )
        return tuple(dict.fromkeys(specs))

    def probes(self) -> Iterator[Architecture]:
        """Of each family one network at each width, with each of its feed-forward parts and windows."""
        first = {(g.family, g.hidden, g.ffn, g.window): g for g in self.genotypes}
        return (network for genotype in first.values() for network in self.architectures(genotype))

    def locate(self, architecture: Architecture) -> ServedGenotype | None:
        """As `OperatorSpace.locate`; the sizes tell most networks apart before their hash does."""
        wanted = dataclasses.replace(architecture, vocab=self.model.vocab).hash
        sizes = architecture.hidden, sum(spec.mixes_tokens for spec in architecture.operators)
        near = (g for g in self.genotypes if (g.hidden, g.layers) == sizes)
        return next((g for g in near if self.architecture(g, g.hidden).hash == wanted), None)

    def contains(self, architecture: Architecture) -> bool:
        return architecture.vocab == self.model.vocab and self.locate(architecture) is not None

    def pure_models(self) -> list[tuple[str, tuple[OperatorSpec, ...]]]:
        """None: no family is one."""
        return []

    def own_settings(self) -> dict[str, Any]:
        return {
            "families": {
                name: dataclasses.asdict(families()[name].search) for name in self.families
            },
            "params": list(self.params),
            "layers": self.layers,
        }

    # -- drawing and encoding

    def sample(self, rng: np.random.Generator) -> ServedGenotype:
        return self.genotypes[rng.integers(len(self.genotypes))]

    def mutate(self, genotype: ServedGenotype, rng: np.random.Generator) -> ServedGenotype:
        """Another network of which one property differs, the depth by NEAR_LAYERS at most."""
        changed = self._rows != _row(genotype)
        near = changed.sum(1) == 1
        near &= np.abs(self._rows[:, 2] - genotype.layers) <= NEAR_LAYERS
        others = np.flatnonzero(near if near.any() else changed.any(1))
        if not len(others):
            raise SpaceError(f"{self.name}: the space holds one network only; nothing to mutate")
        return self.genotypes[others[rng.integers(len(others))]]

    def encode(self, genotype: ServedGenotype) -> dict[str, Value]:
        return dataclasses.asdict(genotype)

    def decode(self, params: Mapping[str, Any]) -> ServedGenotype:
        """The nearest one of the family, by feed-forward part, width, depth and distance."""
        wished = ServedGenotype(**params)
        return min(
            self.genotypes,
            key=lambda genotype: (
                genotype.family != wished.family,
                genotype.ffn != wished.ffn,
                abs(np.log(genotype.hidden / wished.hidden)),
                abs(genotype.layers - wished.layers),
                abs(genotype.every - wished.every),
                abs(genotype.window - wished.window),
            ),
        )

    def distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        layers = [genotype.layers for genotype in self.genotypes]
        others = {name: {vars(each)[name] for each in self.genotypes} for name in OTHERS}
        return {
            "family": CategoricalDistribution(self.families),
            "hidden": CategoricalDistribution(self.hidden_sizes),
            "layers": IntDistribution(min(layers), max(layers)),
            **{name: CategoricalDistribution(sorted(found)) for name, found in others.items()},
        }

    def features(self, genotype: ServedGenotype) -> np.ndarray:
        """The family, the feed-forward part, and the logarithms of width, depth, distance, window."""
        of_family = [float(genotype.family == name) for name in self.families]
        sizes = [genotype.hidden, genotype.layers, genotype.every, genotype.window + 1]
        return np.array([*of_family, genotype.ffn, *np.log(sizes)])

    def size(self) -> int:
        return len(self.genotypes)

    def count_networks(self) -> float:
        return len(self.genotypes)

    def enumerate(self) -> Iterator[ServedGenotype]:
        return iter(self.genotypes)


def attention_places(layers: int, every: int, last: bool) -> range:
    """Numbers, from 1, of the layers that attend: the last or the middle one of each `every`."""
    return range(every if last else every // 2 + 1, layers + 1, every)


def _distances(layers: int, distances: tuple[int, ...], last: bool) -> list[int]:
    """The distances that a family of so many layers has: one for each number of attention layers,
    the one whose groups leave the fewest layers over; every network has both kinds."""
    if distances == (1,):
        return [1]
    of_count: dict[int, int] = {}
    for every in distances:
        count = len(attention_places(layers, every, last))
        if count and (count not in of_count or layers % every < layers % of_count[count]):
            of_count[count] = every
    return sorted(of_count.values())


def _row(genotype: ServedGenotype) -> list[int]:
    """The properties of a network as numbers, the family first."""
    family, *numbers = dataclasses.astuple(genotype)
    return [list(families()).index(family), *numbers]


def _widths(family: Family) -> list[int]:
    return sorted(width for size in family.search.sizes for width in size.widths)


def _choices(name: str) -> itertools.product[tuple[int, int]]:
    """Feed-forward parts of a family, by number, with its windows."""
    search = families()[name].search
    return itertools.product(range(len(search.ffn)), search.windows)


@functools.cache
def _specs(name: str, hidden: int, ffn: int, window: int) -> tuple[OperatorSpec, ...]:
    """The token mixers of a family at a width, full attention last, and a feed-forward part."""
    search = families()[name].search
    size: Size = next(size for size in search.sizes if hidden in size.widths)
    texts = [text.replace("swa(", f"swa(window={window},") for text in size.mixers]
    mixers = [spec for text in texts for spec in parse_operators(text)]
    return (*mixers, search.ffn[ffn].spec(hidden))


@functools.lru_cache(maxsize=65_536)
def _operators(of: ServedGenotype) -> tuple[OperatorSpec, ...]:
    *others, attention, ffn = _specs(of.family, of.hidden, of.ffn, of.window)
    places = attention_places(of.layers, of.every, families()[of.family].search.last)
    return tuple(
        spec
        for number in range(1, of.layers + 1)
        for spec in (attention if number in places else others[0], ffn)
    )
