"""Documents of YAML and JSON: read with the line of every entry, and made into dataclasses.

Values of YAML are read as in its version 1.2, where only `true` and `false` are booleans: `on`,
`off`, `yes` and `no` are text. What a file holds is stated once, by a dataclass:

    header = convert(data, Header, f"{file}: header", RunError, name="header")

    log.jsonl:1: header.vocab must be a whole number; got 'many'

What the types of fields ask for is said in typed.py. Rules between fields belong
into `__post_init__`, which raises ValueError with the rule. Keys that the dataclass does not have
are ignored, so that a newer version's file can be read, unless `closed=True`. Options that a user
sets, and recipes, are `settings.Settings`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.foreign import MAX_YAML_MB, TOO_DEEP, check_count, check_depth, read_text
from flashnas.base.text import first_line, has_no
from flashnas.base.typed import Misfit, place_of, scalar, typed


class Located:
    """A mapping or list with its file, its line (from 1), and that of each entry."""

    path: str = "<memory>"
    line: int = 0
    lines: Mapping[Any, int] = MappingProxyType({})

    def place(self, entry: str | int | None = None) -> str:
        """`file.yaml:12` for the entry, or for the whole."""
        return f"{self.path}:{self.lines.get(entry, self.line)}"


class LocatedDict(Located, dict[str, Any]):
    """A mapping of a YAML file."""


class LocatedList(Located, list[Any]):
    """A list of a YAML file."""


L = TypeVar("L", bound=Located)
# Nodes that a document has when each alias is replaced by what it refers to; nine levels of nine
# have 10^9.
MAX_EXPANDED_NODES = 100_000
# Before anything is parsed: each entry of a document begins after one of SEPARATORS. A node takes
# about 1 kB.
MAX_YAML_VALUES = 250_000
SEPARATORS = ",[{\n"
_TEXT = yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG


def _mapping(loader: Any, node: yaml.MappingNode) -> LocatedDict:
    """Keys are text and unique; those of the mapping override those that `<<` merges into it."""
    own = {id(key_node) for key_node, _ in node.value}
    loader.flatten_mapping(node)  # puts the merged keys first
    result, lines, written = LocatedDict(), dict[str, int](), set[str]()
    for key_node, value_node in node.value:
        key = _value(loader, key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(f"{loader.path}:{line}: keys must be text; got {key!r}")
        if key in written:
            raise ConfigError(
                f"{loader.path}:{line}: duplicate key {key!r} (first on line {lines[key]})"
            )
        if id(key_node) in own:
            written.add(key)
        lines[key] = line
        result[key] = _value(loader, value_node)
    return _located(result, loader, node, lines)


def _located(made: L, loader: Any, node: yaml.Node, lines: Mapping[Any, int]) -> L:
    made.path, made.line, made.lines = loader.path, node.start_mark.line + 1, lines
    return made


def _value(loader: Any, node: yaml.Node) -> Any:
    """Most nodes are text, which needs no constructor."""
    if node.tag == _TEXT and isinstance(node, yaml.ScalarNode):
        return node.value
    return loader.construct_object(node, deep=True)


def _sequence(loader: Any, node: yaml.SequenceNode) -> LocatedList:
    result = LocatedList(_value(loader, child) for child in node.value)
    lines = {number: child.start_mark.line + 1 for number, child in enumerate(node.value)}
    return _located(result, loader, node, lines)


def _check_aliases(path: str, root: yaml.Node) -> None:
    sizes: dict[int, int] = {}  # by id of the node; 0 while its children are counted

    def size_of(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 0  # also of a node that contains itself
            children = node.value if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in children for child in pair]
            sizes[id(node)] = 1 + sum(map(size_of, children))
        return sizes[id(node)]

    expanded = size_of(root)
    if expanded > MAX_EXPANDED_NODES and expanded > len(sizes):
        raise ConfigError(
            f"{path}: aliases expand its {len(sizes):,} values to more than"
            f" {MAX_EXPANDED_NODES:,}; write out what is needed"
        )


# Numbers and booleans as in YAML 1.2: `1:2` is text, not 62 in base 60; `1e-3` is a number; `on` is
# text. An exponent without a dot needs its sign, so that a hash such as 12e4567890123456 stays
# text.
_PLAIN_VALUES = {
    "tag:yaml.org,2002:bool": (r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+][0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
}


def make_loader(parser: type) -> type:
    """A loader of located mappings and lists on one of PyYAML's two parsers."""
    loader: Any = type("Loader", (parser,), {"path": "<memory>"})
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _PLAIN_VALUES]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, (pattern, first) in _PLAIN_VALUES.items():
        loader.add_implicit_resolver(tag, re.compile(pattern), list(first))
    loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
    loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG, _sequence)
    return loader


# libyaml is ten times as fast as Python
LOADER = make_loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def parse_yaml(text: str, path: str = "<memory>") -> Any:
    """Parse one YAML document with the safe loader, which executes nothing. path: of the file, for
    messages and places.

    Raises ConfigError with file and line for text that is not YAML, and for keys that are twice or
    not text.
    """
    check_count(text, path, ConfigError, most=MAX_YAML_VALUES, separators=SEPARATORS)
    try:
        loader: Any = LOADER(text)
        loader.path = path
        root = loader.get_single_node()
        if root is None:
            return None
        if "&" in text:  # an alias needs an anchor
            _check_aliases(path, root)
        value = _value(loader, root)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # a value that does not fit the tag before it, as `!!bool maybe`, raises what PyYAML runs into
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        words = getattr(error, "problem", None) or getattr(error, "context", None)
        raise ConfigError(f"{place}: not valid YAML: {words or first_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: {TOO_DEEP}") from None
    check_depth(value, path, ConfigError)
    return value


def read_yaml(path: str | Path) -> LocatedDict:
    """Read a YAML file whose top level is a mapping; raises ConfigError with file, line and rule."""
    data = parse_yaml(read_text(path, ConfigError, max_mb=MAX_YAML_MB), str(path))
    if not isinstance(data, LocatedDict):
        kind = "list" if isinstance(data, list) else type(data).__name__
        raise ConfigError(f"{path}:1: the top level must be a mapping; got {kind}")
    return data


# -- dataclasses -----------------------------------------------------------------------------------

T = TypeVar("T")
COMPACT = (",", ":")  # separators of JSON


def convert(
    data: Any,
    kind: type[T],
    place: str | Path = "",
    error: type[FlashnasError] = ConfigError,
    *,
    name: str = "",
    closed: bool = False,
    finite: bool = True,
) -> T:
    """Parsed data as an object of a type.

    Args:
        kind: a dataclass, or a type such as `dict[str, float]`.
        place: where the data is from; not needed for what `read_yaml` returned.
        name: what the data is, before the names of fields in messages: `training`.
        closed: refuse keys that the dataclass does not have.
        finite: refuse infinite numbers and NaN.

    Raises:
        FlashnasError: of the class `error`, in one line with place, rule and value.
    """
    if closed and isinstance(data, dict) and dataclasses.is_dataclass(kind):
        allowed = [field.name for field in dataclasses.fields(kind)]
        for key in data:
            if key not in allowed:
                raise error(
                    f"{place_of(data, [key], place)}: {has_no(name or 'it', 'key', key, allowed)}"
                )
    try:
        return typed(data, kind, functools.partial(scalar, finite=finite))
    except Misfit as caught:
        raise error(f"{place_of(data, caught.steps, place)}: {caught.line(name)}") from None


def fingerprint(data: Any, separators: tuple[str, str] | None = None) -> str:
    """16 hex digits of the SHA-256 of JSON-ready data; of networks and spaces with COMPACT."""
    text = json.dumps(data, sort_keys=True, default=str, separators=separators)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
