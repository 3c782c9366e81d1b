"""A search space from its YAML file, by path or by shipped name, and the settings that all templates
read from it. Every error names file, line, rule and value.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flashnas.architecture import MAX_META_TOKENS, MAX_VOCAB, Architecture, parse_operators
from flashnas.base.documents import LocatedDict, LocatedList, convert, read_yaml
from flashnas.base.errors import ArchitectureError, ConfigError, OperatorError, SpaceError
from flashnas.base.registry import Registry, foreign_errors, shipped_names
from flashnas.base.text import did_you_mean, one_of, printable, range_of, shown
from flashnas.families.family import families
from flashnas.operators import OperatorSpec
from flashnas.space.base import SearchSpace
from flashnas.space.operator_space import ModelOptions, OperatorSpace

T = TypeVar("T")
# operators or layers; no hybrid comes near, and a typing error in a cap must not block the search
MAX_DEPTH = 256
MAX_ENTRIES = 256  # of one list in the file

TEMPLATES: Registry[type[SearchSpace[Any]]] = Registry(
    "search space template",
    "flashnas.spaces",
    {
        "three_stage": "flashnas.space.three_stage:ThreeStageSpace",
        "layerwise": "flashnas.space.layerwise:LayerwiseSpace",
        "served": "flashnas.space.served:ServedSpace",
    },
    SpaceError,
    "template",
    base="flashnas.space.base:SearchSpace",
)


def load_space(source: str | Path | SearchSpace[Any]) -> SearchSpace[Any]:
    """Load a search space.

    Args:
        source (str | Path | SearchSpace): a shipped name such as `nemotron_flash`, the name of a
            family such as `granite`, or the path of a YAML file. A space is returned as it is.

    Returns:
        The SearchSpace.

    Raises:
        SpaceError or ConfigError: in one line with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> fn.load_space("nemotron_flash").name
        'nemotron_flash'
    """
    if isinstance(source, SearchSpace):
        return source
    if str(source) in families():
        served: Any = TEMPLATES["served"]
        return served.of_family(str(source))
    path = _resolve(str(source))
    data = read_yaml(path)
    if "template" not in data:
        raise SpaceError(
            f"{data.place()}: a search space needs the key 'template': one of"
            f" {', '.join(TEMPLATES)}"
        )
    # a list accepts any value, also one that is not hashable
    if data["template"] not in list(TEMPLATES):
        raise SpaceError(one_of(f"{data.place('template')}: template", data["template"], TEMPLATES))
    place, factor = data.place("width_factor"), data.pop("width_factor", None)
    template = TEMPLATES[data["template"]]
    with foreign_errors(("search space template", template)):
        space = template.from_config(data, name=Path(path).stem)
    if factor is not None:
        if not isinstance(space, OperatorSpace):
            raise SpaceError(
                f"{place}: width_factor is of spaces of flashnas' operators; this one has"
                " architectures of its own"
            )
        space.width_factor = whole_number(place, "width_factor", factor, 1, 1024)
    return space


def load_operator_space(
    source: str | Path | SearchSpace[Any],
    use: str,
    *,
    params: str | None = None,
    vocab: int | None = None,
) -> OperatorSpace[Any]:
    """`load_space` for what needs a space of flashnas' operators, such as a latency table (`use`).

    Args:
        params: fewest and most parameters of networks of families, such as 20M..60M.
        vocab: another vocabulary.

    Raises:
        SpaceError: also for a space with architectures of its own.
    """
    space = load_space(source)
    if not isinstance(space, OperatorSpace):
        raise SpaceError(
            f"{use} needs a space of flashnas' operators; space {space.name!r} (template"
            f" {space.template or type(space).__name__!r}) has architectures of its own"
        )
    if vocab is not None:
        space = space.with_vocab(vocab)
    if params is None:
        return space
    if not hasattr(space, "restricted"):
        raise SpaceError(f"--params needs families of networks; got space {space.name!r}")
    try:
        return space.restricted(range_of(params))
    except ValueError as error:
        raise SpaceError(f"--params {error}") from None


def check_space(space: SearchSpace[Any]) -> None:
    """Call a space of another package once; raise PluginError if a method raises, ConfigError if a
    genotype is not hashable or has no network."""
    if type(space).__module__.startswith("flashnas."):
        return
    rng = np.random.default_rng(0)
    with foreign_errors(("space", space)):
        genotype = space.sample(rng)
        with contextlib.suppress(SpaceError):  # a space of one genotype
            space.mutate(genotype, rng)
        space.decode(space.encode(genotype))
        space.distributions()
        sizes = space.architectures(genotype)
    if not isinstance(genotype, Hashable):
        raise ConfigError(
            f"space {space.name!r}: its genotypes must be hashable; got {type(genotype).__name__}"
        )
    if not len(sizes):
        raise ConfigError(
            f"space {space.name!r}: architectures must return at least one network; got none"
            f" for {genotype}"
        )


def _resolve(source: str) -> str:
    shipped = shipped_names("search_spaces")
    if source in shipped:
        relative = os.path.relpath(shipped[source])  # short in messages
        return str(shipped[source]) if relative.startswith("..") else relative
    if Path(source).suffix in (".yaml", ".yml") or os.path.exists(source):
        if not os.path.exists(source):
            raise SpaceError(f"{printable(source)}: no such file")
        return source
    names = [*shipped, *families()]
    raise SpaceError(
        f"{shown(source)} is not a shipped search space{did_you_mean(source, names)}, a family or a"
        f" YAML file; shipped: {', '.join(shipped)}; families: {', '.join(families())}"
    )


# -- settings that all templates share ------------------------------------------------------------


def read_list(
    data: LocatedDict, key: str, where: str, read: Callable[[str, str, Any], T]
) -> tuple[T, ...]:
    """Different values, 1 to MAX_ENTRIES of them, each as `read(line, name, value)` gives it."""
    values: LocatedList = data[key]
    name = f"{where}.{key}" if where else key
    if not values:
        raise SpaceError(f"{data.place(key)}: {name} must not be empty")
    if len(values) > MAX_ENTRIES:
        raise SpaceError(
            f"{data.place(key)}: {name} must have at most {MAX_ENTRIES} entries; got {len(values)}"
        )
    found: list[T] = []
    for i, value in enumerate(values):
        made = read(values.place(i), f"{name}[{i}]", value)
        if made in found:
            raise SpaceError(f"{values.place(i)}: {name}[{i}] is a duplicate; got {shown(value)}")
        found.append(made)
    return tuple(found)


def read_choices(
    data: LocatedDict, key: str, where: str, allowed: Sequence[Any]
) -> tuple[Any, ...]:
    """A list of different values, each of those allowed and of their type."""

    def choice(place: str, name: str, value: Any) -> Any:
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise SpaceError(one_of(f"{place}: {name}", value, dict.fromkeys(map(str, allowed))))
        return value

    return read_list(data, key, where, choice)


def whole_number(place: str, name: str, value: object, least: int, most: int) -> int:
    """A whole number from `least` to `most`, or a SpaceError that names place, setting and
    value.
    """
    if type(value) is not int or not least <= value <= most:
        raise SpaceError(
            f"{place}: {name} must be a whole number from {least} to {most}; got {shown(value)}"
        )
    return value


def read_range(data: LocatedDict, key: str, where: str) -> tuple[int, int]:
    """`[low, high]`, or one number for both; from 1 to MAX_DEPTH."""
    value = data[key]
    ends = value if isinstance(value, list) else [value, value]
    whole = len(ends) == 2 and all(type(end) is int for end in ends)
    if not whole or not 1 <= ends[0] <= ends[1] <= MAX_DEPTH:
        name = f"{where}.{key}" if where else key
        raise SpaceError(
            f"{data.place(key)}: {name} must be a whole number or [low, high], from 1 to"
            f" {MAX_DEPTH}; got {shown(value)}"
        )
    return ends[0], ends[1]


def read_operators(place: str, name: str, text: str) -> tuple[OperatorSpec, ...]:
    """Operators in notation."""
    try:
        operators = parse_operators(text)
    except (ArchitectureError, OperatorError) as error:
        raise SpaceError(f"{place}: {name}: {error}") from None
    if not operators:
        raise SpaceError(f"{place}: {name} must be an operator such as d or a(kv_heads=4)")
    return operators


def read_shared(data: LocatedDict, name: str, specs: Sequence[OperatorSpec]) -> dict[str, Any]:
    """What every space of operators is made with, of `widths` and the optional block `model`. The
    operators must fit all widths, and differ there: equal networks must have equal genotypes."""
    block = data.get("model", LocatedDict())
    model = convert(block, ModelOptions, error=SpaceError, name="model", closed=True)
    for key, least, most in (("vocab", 2, MAX_VOCAB), ("meta_tokens", 0, MAX_META_TOKENS)):
        whole_number(block.place(key), f"model.{key}", getattr(model, key), least, most)
    widths, place = read_list(data, "widths", "", lambda _, __, value: value), data.place("widths")
    if [*widths] != sorted(widths):
        raise SpaceError(f"{place}: widths must ascend; got {shown([*widths])}")
    for hidden in widths:
        try:
            full = Architecture(hidden=hidden, operators=tuple(specs)).canonical().operators
        except (ArchitectureError, OperatorError) as error:
            raise SpaceError(f"{place}: at width {hidden}: {error}") from None
        first: dict[OperatorSpec, OperatorSpec] = {}
        for spec, resolved in zip(specs, full, strict=True):
            if (other := first.setdefault(resolved, spec)) != spec:
                raise SpaceError(
                    f"{place}: operators must differ at every width; {str(other)!r} and"
                    f" {str(spec)!r} are the same at width {hidden}"
                )
    return {"name": name, "path": data.path, "hidden_sizes": widths, "model": model}
