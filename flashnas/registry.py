"""Names to objects, loaded when they are used: the one way to find an operator, sampler, task, space template, export
format, executor, report section or command.

What flashnas ships is one line here, `name: "module:object"`. Another package adds a name by an entry point of the same
group in its pyproject.toml; nothing has to be imported or called:

    [project.entry-points."flashnas.operators"]
    gsc = "flashnas_short_conv.spec:GatedShortConvolution"

Worker processes find such names too, since they read the same installed packages.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from flashnas.base.errors import FlashnasError, PluginError
from flashnas.base.hints import one_of

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from names to objects. Iterating over names imports nothing; `registry[name]` imports the one
    object.

    Args:
        noun: what a name stands for, such as "sampler"; used in messages.
        group: entry point group in which other packages add names, such as "flashnas.samplers".
        shipped: name -> "module:object" of what flashnas brings.
        error: class of the error for an unknown name.
    """

    def __init__(self, noun: str, group: str, shipped: Mapping[str, str], error: type[FlashnasError]) -> None:
        self.noun, self.group, self.shipped, self.error = noun, group, dict(shipped), error
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """The object of that name. Raises the registry's error for an unknown name and PluginError for a plugin that
        cannot be imported or that takes a shipped name."""
        if name not in self._loaded:
            if not isinstance(name, str) or name not in self:
                raise self.error(one_of(self.noun, name, self))
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.shipped
        yield from (name for name in self.plugins() if name not in self.shipped)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self.shipped or name in self.plugins()

    def plugins(self) -> Mapping[str, EntryPoint]:
        """The entry points of installed packages in this group, by name.

        Raises PluginError if two packages, or a package and flashnas, define one name.
        """
        found: dict[str, EntryPoint] = {}
        for entry in _entry_points(self.group):
            other = found.get(entry.name)
            if entry.name in self.shipped or (other is not None and other.value != entry.value):
                owner = f"the package {_package(other)}" if other else "flashnas itself"
                raise PluginError(f"{self.noun} {entry.name!r} of the package {_package(entry)} has the name of one of"
                                  f" {owner}; uninstall one of the packages")
            found[entry.name] = entry
        return found

    def origin(self, name: str) -> str:
        """`flashnas`, or the name of the package that adds the entry."""
        return "flashnas" if name in self.shipped else _package(self.plugins()[name])

    def _load(self, name: str) -> T:
        if name in self.shipped:
            found: T = load_object(self.shipped[name])
            return found
        entry = self.plugins()[name]
        try:
            loaded: T = entry.load()
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise PluginError(f"{self.noun} {name!r} of the package {_package(entry)} cannot be loaded from"
                              f" {entry.value}: {type(error).__name__}: {line}") from error
        return loaded


@functools.cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def forget_plugins() -> None:
    """Look at the installed packages again, after one was installed into this process (for tests and notebooks)."""
    _entry_points.cache_clear()


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def load_object(place: str) -> Any:
    """The object at "module:object"."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
