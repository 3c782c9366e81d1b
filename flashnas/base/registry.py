"""Names to objects, loaded when they are used: the one way to find an operator, sampler, task, space template, export
format, executor, report section or command.

What flashnas ships is one line here, `name: "module:object"`. Another package adds a name by an entry point of the same
group in its pyproject.toml; nothing has to be imported or called:

    [project.entry-points."flashnas.operators"]
    gsc = "flashnas_short_conv.spec:GatedShortConvolution"

Worker processes find the same names, because they read the same installed packages.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from flashnas.base.errors import FlashnasError, PluginError
from flashnas.base.hints import one_of

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from names to objects. Iterating over names imports nothing; `registry[name]` imports the one
    object.

    Args:
        noun: what a name refers to, such as "sampler"; used in messages.
        group: entry point group in which other packages add names, such as "flashnas.samplers".
        shipped: name -> "module:object" of what flashnas brings.
        error: class of the error for an unknown name.
        attribute: the attribute in which an object states its own name, such as "kind"; "" if it has none. A plugin
            whose object states another name than its entry point is refused.
    """

    def __init__(self, noun: str, group: str, shipped: Mapping[str, str], error: type[FlashnasError],
                 attribute: str = "") -> None:
        self.noun, self.group, self.shipped, self.error, self.attribute = noun, group, dict(shipped), error, attribute

    def __getitem__(self, name: str) -> T:
        """The object of that name.

        Raises:
            FlashnasError: the registry's own class, for an unknown name.
            PluginError: the plugin cannot be imported, takes a shipped name, or states another name.
        """
        if name not in self:
            raise self.error(one_of(self.noun, name, self))
        found: T = load_object(self.shipped[name]) if name in self.shipped else self._plugin(name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """The object of that name, or `default` for an unknown name."""
        return default if name not in self else self[name]  # noqa: SIM401  (Mapping.get expects a KeyError)

    def __iter__(self) -> Iterator[str]:
        yield from self.shipped
        yield from self.plugins()

    def __len__(self) -> int:
        return len(self.shipped) + len(self.plugins())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.shipped or name in self.plugins())

    def plugins(self) -> Mapping[str, EntryPoint]:
        """The entry points of installed packages in this group, by name, in alphabetical order.

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
        """`flashnas`, or the name of the package that adds the entry; raises the registry's error if it is unknown."""
        if name not in self:
            raise self.error(one_of(self.noun, name, self))
        return "flashnas" if name in self.shipped else _package(self.plugins()[name])

    def _plugin(self, name: str) -> T:
        entry = self.plugins()[name]
        place = f"{self.noun} {name!r} of the package {_package(entry)}"
        try:
            loaded: T = entry.load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            line = (str(error).strip().splitlines() or [""])[0]
            raise PluginError(f"{place} cannot be loaded from {entry.value}: {type(error).__name__}: {line}") from error
        if self.attribute and getattr(loaded, self.attribute, None) != name:
            raise PluginError(f"{place}: {self.attribute} of {entry.value} must be {name!r}, the name of its entry"
                              f" point; got {getattr(loaded, self.attribute, None)!r}")
        return loaded


@functools.cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """In an order that does not depend on the order of the folders on sys.path."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def forget_plugins() -> None:
    """Read the installed packages again, after one was installed while this process runs (tests, notebooks)."""
    _entry_points.cache_clear()


@contextlib.contextmanager
def foreign_errors(*things: tuple[str, object], direct: bool = True) -> Iterator[None]:
    """Within the block, what the code of another package raises is a PluginError, in one line with the place of that
    code; flashnas' own errors and those of its own code stay. It costs nothing until something is raised.

    Args:
        things: (what it is in words, such as "sampler", the object or its class), for each one that is called.
        direct: the block calls the first thing itself, so that an error without a frame of any thing, such as a call
            with too many arguments, comes from there.
    """
    try:
        yield
    except FlashnasError:
        raise
    except Exception as error:
        noun, first = things[0]
        place = _blamed(error, things) or (f"{noun} {_place(first)}" if direct and _is_foreign(first) else "")
        if not place:
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        raise PluginError(f"{place} raised {type(error).__name__}: {line}") from error


def _blamed(error: Exception, things: Sequence[tuple[str, object]]) -> str:
    """`space pkg.module:Class.mutate`: the thing that was called last before the error, and the method that was called
    of it; empty if no frame is of foreign code of a thing."""
    found, inside = "", ""  # what is blamed so far; the thing whose code the frame before was of
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, code = str(frame.f_globals.get("__name__", "")), frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        noun = place = ""
        for of, thing in () if _of_flashnas(module) else things:
            if first is not None and (first is thing or (isinstance(thing, type) and isinstance(first, thing))):
                noun, place = of, f"{_place(thing)}.{code.co_name}"
                break
            if _is_foreign(thing) and module == _class_of(thing).__module__:  # its networks, for example
                noun, place = inside or of, f"{module}:{code.co_qualname}"
        if noun and noun != inside:
            found = f"{noun} {place}"
        inside = noun
    return found


def _class_of(thing: object) -> Any:
    """The class itself, a function itself, or the class of an object."""
    return thing if hasattr(thing, "__qualname__") else type(thing)


def _place(thing: object) -> str:
    return f"{_class_of(thing).__module__}:{_class_of(thing).__qualname__}"


def _of_flashnas(module: str) -> bool:
    return module == "flashnas" or module.startswith("flashnas.")


def _is_foreign(thing: object) -> bool:
    return not _of_flashnas(_class_of(thing).__module__)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def load_object(place: str) -> Any:
    """The object at "module:object"."""
    module, _, attribute = place.partition(":")
    loaded = sys.modules.get(module)  # import_module takes as long as parsing an operator, which needs the object
    if loaded is None or getattr(getattr(loaded, "__spec__", None), "_initializing", False):
        loaded = importlib.import_module(module)
    return getattr(loaded, attribute)
