"""Families: what programs load from a plain checkpoint, each one file of data beside this module.

A file states the layers of a family and their limits, the shapes that a search looks at, the
programs that load it, the fields of its config.json and the names of its weights.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.documents import convert, read_yaml
from flashnas.families.fitting import Demands, Format, choose
from flashnas.families.pieces import (
    Parts,
    Piece,
    network_pieces,
    norm_eps,
    rows_of,
    with_channels,
    with_gated_queries,
)
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention
from flashnas.operators.gated_delta_net.spec import GatedDeltaNet
from flashnas.operators.mamba2.spec import Mamba2

WIDTH_STEP = 64  # widths of feed-forward networks and experts are multiples of it
CONTEXT_TOKENS = 32768  # that programs allocate at most by default
# programs that load a network without flashnas, in the order in which they are named
PROGRAMS = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "tensorrt-llm": "TensorRT-LLM",
    "llama.cpp": "llama.cpp",
    "mlx": "MLX",
    "transformers": "transformers",
}


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that loads a family.

    version: in which that was seen. run: it was run here; else its source was read. since: month
    of the first version. source: where that is written. interval: attention must be every k-th
    layer. beta: the part of the program that loads it,
    where that is not the usual one. model_type: in config.json, where it is another one. on_cpu:
    number types in which it is right on a CPU, where these are not all.
    """

    version: str
    run: bool = False
    since: str = ""
    source: str = ""
    interval: bool = False
    beta: str = ""
    model_type: str = ""
    on_cpu: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths, and the token mixers of networks of these widths, in notation."""

    widths: list[int]
    mixers: list[str]


@dataclass(frozen=True, kw_only=True)
class FfnChoice:
    """A feed-forward network or experts, in notation. ratio: the width, of each expert, over that
    of the network; shared_ratio: that of the expert which every token passes. 0: the operator's."""

    operator: str
    ratio: float = 0.0
    shared_ratio: float = 0.0

    def spec(self, hidden: int) -> OperatorSpec:
        """The operator in a network of this width."""
        (spec,) = parse_operators(self.operator)
        for name, ratio in (("intermediate", self.ratio), ("shared", self.shared_ratio)):
            if ratio:
                size = max(round(ratio * hidden / WIDTH_STEP), 1) * WIDTH_STEP
                spec = replace(spec, **{name: size})
        return spec


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The shapes of a family that a search looks at. layers: fewest and most token mixers, each
    with a feed-forward network; step: between these numbers. every: distances of attention layers.
    last: attention is the last of each group of that many layers; else the middle one. windows: of
    the other layers, in tokens, where these are attention, too. ffn: all layers of a network have
    one of these."""

    tied: bool
    layers: list[int]
    every: list[int]
    sizes: list[Size]
    ffn: list[FfnChoice]
    step: int = 1
    last: bool = False
    windows: list[int] = field(default_factory=lambda: [0])

    @property
    def sparse(self) -> bool:
        """Whether the networks have mixtures of experts."""
        return any(choice.operator.startswith("moe") for choice in self.ffn)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Names of tensors. top: embedding, final norm, head. layer: what stands in front, by
    `{layer}` or `{operator}`. norms: of token mixers and of others. names: kind of operator ->
    module or part -> name; `q+k+v` joins parts. zero_centred: norms that multiply by 1 + weight.
    untied: a tied head is written, too."""

    top: list[str]
    layer: str
    norms: list[str]
    names: dict[str, dict[str, str]]
    zero_centred: list[str] = field(default_factory=list)
    untied: bool = False


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """An architecture of llama.cpp, where it differs from the family: `demands` by kind of operator,
    `needs`, and `apart`, kinds of which there may be one only.

    interleaved: rotary positions turn neighbouring channels of a head, not its two halves.
    second_norm, output_norm: names of the norms of a feed-forward network and in front of the head.
    keys: further ones of a file, as of gguf/gguf.yaml.
    """

    name: str
    demands: dict[str, Demands] = field(default_factory=dict)
    needs: list[str] | None = None
    apart: list[str] = field(default_factory=list)
    interleaved: bool = False
    second_norm: str = "ffn_norm"
    output_norm: str = "output_norm"
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A class of models that programs load.

    title: for people. vocab: of published models. layers: kind of operator -> its name in
    config.json. pairs: each token mixer has one feed-forward network behind it, with which it is
    one layer. needs: kinds of which there is at least one. seen: day on which the versions of the
    programs were seen.
    config: entries of config.json; `=name` is a value of the network (`values_of`). gguf: None:
    another family's file says how llama.cpp runs it.
    """

    title: str
    model_type: str
    vocab: int
    layers: dict[str, str]
    needs: list[str]
    demands: dict[str, Demands]
    search: Searched
    seen: str
    programs: dict[str, Program]
    config: dict[str, Any]
    weights: Weights
    gguf: Gguf | None = None
    pairs: bool = False

    @functools.cached_property
    def format(self) -> Format:
        """The networks that the family holds."""
        return Format(self.title, self.demands, needs=tuple(self.needs), pairs=self.pairs)

    @functools.cached_property
    def gguf_format(self) -> Format:
        """The rules by which llama.cpp loads it."""
        assert self.gguf is not None
        needs = self.needs if self.gguf.needs is None else self.gguf.needs
        return Format(
            self.gguf.name,
            {**self.demands, **self.gguf.demands},
            needs=tuple(needs),
            pairs=self.pairs,
            apart=tuple(self.gguf.apart),
        )

    def holds(self, architecture: Architecture) -> bool:
        """Whether the network is one of the family."""
        return self.format.holds(architecture)

    def loading(self, architecture: Architecture) -> dict[str, Program]:
        """The programs that load a network which the family holds, in the order of PROGRAMS."""
        even = interval_of(architecture.canonical().operators)[1]
        programs = {name: self.programs[name] for name in PROGRAMS if name in self.programs}
        return {name: each for name, each in programs.items() if even or not each.interval}

    def configuration(self, architecture: Architecture) -> dict[str, Any]:
        """config.json of a network that the family holds, without number type and tokens."""
        return filled(self.config, self.values_of(architecture))

    def values_of(self, architecture: Architecture) -> dict[str, Any]:
        """What `=name` may stand for: sizes of the network, and `kind.option` of its operators."""
        operators, hidden = architecture.canonical().operators, architecture.hidden
        layers = layers_of(operators, self.pairs)
        names = [self.layers.get(first.kind, "") for first, *_ in layers]
        values: dict[str, Any] = {
            "hidden": hidden,
            "vocab": architecture.vocab,
            "tied": architecture.tied,
            "eps": norm_eps(architecture),
            "context": CONTEXT_TOKENS,
            "layer_count": len(layers),
            "layers": names,
            "layer_letters": "".join(names),
        }
        if interval := interval_of(operators)[0]:
            values["interval"] = interval
        for spec in reversed(operators):
            own = {**vars(spec), **_derived(spec, hidden)}
            values |= {f"{spec.kind}.{name}": value for name, value in own.items()}
        return values

    def changes(self, architecture: Architecture) -> list[str]:
        """What a file of the family changes of a network, a line each."""
        if not (self.weights.untied and architecture.tied):
            return []
        more = architecture.vocab * architecture.hidden
        return [
            f"{self.title} ties no head: the embedding is written twice, {more:,} parameters more"
        ]

    def pieces(
        self, architecture: Architecture, weights: Weights | None = None, parts: Parts | None = None
    ) -> list[Piece]:
        """The tensors of a network that the family holds. weights, parts: of another kind of file."""
        names, architecture = weights or self.weights, architecture.canonical()
        layers = layers_of(architecture.operators, self.pairs)
        layer_of = [n for n, layer in enumerate(layers) for _ in layer]

        def place(n: int, spec: OperatorSpec) -> tuple[str, str]:
            layer, norm = names.layer, names.norms[0 if spec.mixes_tokens else 1]
            norm = norm if "{" in norm else layer + norm
            at = {"layer": layer_of[n], "operator": n}
            return layer.format(**at), norm.format(**at)

        embedding, norm, head = names.top
        pieces = network_pieces(
            architecture, (embedding, norm, head), names.names, place, parts=parts or _parts
        )
        if names.untied and architecture.tied:
            pieces.insert(2, replace(pieces[0], name=f"{head}.weight"))
        centred = tuple(f"{name}.weight" for name in names.zero_centred)
        return [
            replace(piece, offset=-1.0) if centred and piece.name.endswith(centred) else piece
            for piece in pieces
        ]


def _derived(spec: OperatorSpec, hidden: int) -> dict[str, Any]:
    """Values of an operator that are not its options."""
    match spec:
        case Attention():
            derived: dict[str, Any] = {}
            if spec.rope_factor > 1 and not spec.rope_original:
                derived["linear_factor"] = spec.rope_factor
                derived["rope_scaling"] = {"rope_type": "linear", "factor": spec.rope_factor}
            elif spec.rope_factor > 1:
                derived["rope_scaling"] = {
                    "rope_type": "llama3",
                    "factor": spec.rope_factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": spec.rope_original,
                }
            return derived | {
                "scale": spec.head_dim**-0.5,
                "positions": "rope" if spec.rotary_dim else "nope",
                "rope": {
                    "rope_type": "default",
                    "rope_theta": spec.rope_theta,
                    "partial_rotary_factor": spec.rope_share,
                },
            }
        case Mamba2():
            return {
                "head_count": spec.head_count(hidden),
                "inner": spec.inner(hidden),
            }
        case GatedDeltaNet():
            _, inner, heads = spec.sizes(hidden)
            return {"inner": inner, "value_heads": heads}
    return {}


def filled(entries: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a file with the values of a network in place of `=name`, without those of a kind of
    operator that it lacks."""
    result = {}
    for key, value in entries.items():
        if not (isinstance(value, str) and value.startswith("=")):
            result[key] = value
        elif (name := value[1:]) in values:
            result[key] = values[name]
    return result


def _parts(spec: OperatorSpec, hidden: int, names: Mapping[str, str]) -> list[Piece]:
    """The tensors of an operator; those of a name such as `q+k+v` are one, and queries stand before
    the gate of their head."""
    import torch

    pieces = {piece.name: piece for piece in with_channels(spec, hidden, names)}
    for name in names:
        parts = [f"{part}.weight" for part in name.split("+")]
        if len(parts) > 1:
            taken = [pieces.pop(part) for part in parts]
            joined = torch.cat([rows_of(piece) for piece in taken])
            pieces[f"{name}.weight"] = replace(taken[0], name=f"{name}.weight", rows=joined)
    found = list(pieces.values())
    gated = isinstance(spec, Attention) and spec.out_gate
    return with_gated_queries(spec, found) if gated else found


def layers_of(operators: Sequence[OperatorSpec], pairs: bool) -> list[list[OperatorSpec]]:
    """The operators of each layer: one, or with `pairs` a mixer with the feed-forward network behind
    it."""
    layers: list[list[OperatorSpec]] = []
    for spec in operators:
        if spec.mixes_tokens or not pairs or not layers:
            layers.append([spec])
        else:
            layers[-1].append(spec)
    return layers


def attends_to_all(spec: OperatorSpec) -> bool:
    """Whether it is attention without a window."""
    return isinstance(spec, Attention) and not spec.window_tokens


def interval_of(operators: Sequence[OperatorSpec]) -> tuple[int, bool]:
    """The distance of the attention layers of a stack, counted in token mixers, and whether
    attention is exactly every layer whose number that distance divides. 0: at no one distance."""
    mixers = [attends_to_all(spec) for spec in operators if spec.mixes_tokens]
    places = [n for n, attends in enumerate(mixers, 1) if attends]
    if not places:
        return 0, False
    alone = max(places[0], len(mixers) - places[0] + 1)  # the least one that leaves one layer
    distance = places[1] - places[0] if len(places) > 1 else alone
    even = places[0] <= distance and len(mixers) - places[-1] <= distance
    if not even or places != list(range(places[0], len(mixers) + 1, distance)):
        return 0, False
    return distance, places[0] == distance


@functools.cache
def families() -> Mapping[str, Family]:
    """All families by name."""
    return {
        path.stem: convert(read_yaml(path), Family, name="family", closed=True)
        for path in sorted(Path(__file__).parent.glob("*.yaml"))
    }


@functools.lru_cache(maxsize=4096)
def family_of(architecture: Architecture) -> Family | None:
    """The family that holds a network."""
    return next((each for each in families().values() if each.holds(architecture)), None)


def needed_family(architecture: Architecture, target: str) -> Family:
    """As `family_of`; raises ExportError as `choose`."""
    formats = {name: family.format for name, family in families().items()}
    return families()[choose(architecture, formats, target)]


def writer_of(config: Mapping[str, Any], architecture: Architecture) -> Family | None:
    """The family as which an export wrote a config.json; not one of 0.2.0 with meta tokens."""
    for family in families().values():
        if family.model_type == config.get("model_type") and family.holds(architecture):
            entries = family.configuration(architecture)
            if entries.items() <= config.items() and "meta_tokens" not in config:
                return family
    return None
