"""YAML with line numbers: every mapping and list knows where its entries stand, so that errors can say so."""

import re
from pathlib import Path
from typing import Any

import yaml

from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean


class LocatedDict(dict[str, Any]):
    """A mapping with the file and the line (from 1) of each key."""

    path: str = "<memory>"
    line: int = 0
    lines: dict[str, int]

    def place(self, key: str | None = None) -> str:
        """`file.yaml:12` for the key, or for the mapping itself."""
        lines = getattr(self, "lines", {})
        return f"{self.path}:{lines.get(key, self.line) if key is not None else self.line}"


class LocatedList(list[Any]):
    """A list with the file and the line (from 1) of each entry."""

    path: str = "<memory>"
    line: int = 0
    lines: list[int]

    def place(self, index: int | None = None) -> str:
        lines = getattr(self, "lines", [])
        known = index is not None and index < len(lines)
        return f"{self.path}:{lines[index] if known and index is not None else self.line}"


class _Loader(yaml.SafeLoader):
    path = "<memory>"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> LocatedDict:
    own = {id(key_node) for key_node, _ in node.value}
    loader.flatten_mapping(node)  # puts what `<<` merges first; the mapping's own keys override it
    result = LocatedDict()
    result.path, result.line, result.lines = loader.path, node.start_mark.line + 1, {}
    written = set()
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(f"{loader.path}:{line}: keys must be text; got {key!r}")
        if key in written:
            raise ConfigError(f"{loader.path}:{line}: key {key!r} stands twice (first on line {result.lines[key]})")
        if id(key_node) in own:
            written.add(key)
        result.lines[key] = line
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> LocatedList:
    result = LocatedList(loader.construct_object(child, deep=True) for child in node.value)
    result.path, result.line = loader.path, node.start_mark.line + 1
    result.lines = [child.start_mark.line + 1 for child in node.value]
    return result


# Numbers as in YAML 1.2: `1:2` is text, not 62 in base 60, and `1e-3` is a number, not text. An exponent without a dot
# needs its sign, so that a hash such as 12e4567890123456 stays text.
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(_NUMBERS[0], re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_NUMBERS[1], re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+][0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"), list("-+0123456789."))
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG, _sequence)


def parse_yaml(text: str, path: str = "<memory>") -> Any:
    """Parse one YAML document with the safe loader; raises ConfigError with file and line."""
    try:
        loader = _Loader(text)
        loader.path = path
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:  # a date or number that does not exist
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: nested too deeply") from None


def read_yaml(path: str | Path) -> LocatedDict:
    """Read a YAML file whose top level is a mapping; raises ConfigError naming file, line and rule."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, LocatedDict):
        kind = "list" if isinstance(data, list) else type(data).__name__
        raise ConfigError(f"{path}:1: the top level must be a mapping; got {kind}")
    return data


def check_keys(data: LocatedDict, *, where: str, required: dict[str, type | tuple[type, ...]],
               optional: dict[str, type | tuple[type, ...]] | None = None,
               error: type[ConfigError] = ConfigError) -> None:
    """Check a mapping's keys and types (bool is no int); raises `error` with line, rule and value."""
    allowed = {**required, **(optional or {})}
    for key, value in data.items():
        if key not in allowed:
            raise error(f"{data.place(key)}: {where} has no key {key!r}{did_you_mean(key, allowed)};"
                        f" allowed: {', '.join(allowed)}")
        expected = allowed[key]
        types = expected if isinstance(expected, tuple) else (expected,)
        wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
        if wrong:
            names = " or ".join("mapping" if t is dict else t.__name__ for t in types)
            raise error(f"{data.place(key)}: {where}.{key} must be {names}; got {value!r}")
    for key in required:
        if key not in data:
            raise error(f"{data.place()}: {where} needs the key {key!r}")
