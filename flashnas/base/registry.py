"""Names to objects, loaded when they are used: the one way to find an operator, sampler, task,
space template, export format, executor, runtime, report section or command.

What flashnas ships is one line here, `name: "module:object"`. Another package adds a name by an
entry point of the same group, also for worker processes; nothing has to be imported or called:

    [project.entry-points."flashnas.operators"]
    gsc = "flashnas_short_conv.spec:GatedShortConvolution"
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from flashnas.base.errors import FlashnasError, PluginError
from flashnas.base.text import first_line, first_sentence, one_of, shown, warn_in_a_line

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from names to objects. Iterating over names imports nothing;
    `registry[name]` imports the one object. `items()` and `values()` import all; a plugin that
    cannot be used is a warning there, and is left out.

    Args:
        noun: what a name refers to, such as "sampler"; used in messages.
        group: entry point group in which other packages add names, such as "flashnas.samplers".
        shipped: name -> "module:object" of what flashnas brings, or the object itself.
        error: class of the error for an unknown name.
        attribute: in which an object states its own name, such as "kind"; a plugin with another
            name is refused.
        base: "module:Class" that a plugin must be an instance or a subclass of.
        summaries: name -> one line about what flashnas brings, for lists that import nothing.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        shipped: Mapping[str, Any],
        error: type[FlashnasError],
        attribute: str = "",
        *,
        base: str = "",
        summaries: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.noun = noun
        self.group = group
        self.shipped = dict(shipped)
        self.error = error
        self.attribute = attribute
        self.base = base
        self.summaries = summaries

    def __getitem__(self, name: str) -> T:
        """The object of that name. The registry's own error for an unknown name; PluginError for a
        plugin that cannot be imported, takes a shipped name, is of another type, or states another
        name."""
        self._check(name)
        if name in self.shipped:
            if isinstance(self.shipped[name], str):  # found once: parsing looks up each operator
                self.shipped[name] = resolve_name(self.shipped[name])
            return self.shipped[name]
        return self._plugin(self.plugins()[name])

    def _plugin(self, entry: EntryPoint) -> T:
        name = entry.name
        base: Any = resolve_name(self.base) if self.base else object
        place = f"{self.noun} {name!r} of the package {package_of(entry)}"
        try:
            loaded: Any = entry.load()
        except (Exception, SystemExit) as error:
            # whatever a foreign module raises while it is imported
            raise PluginError(
                f"{place} cannot be loaded from {entry.value}: {type(error).__name__}:"
                f" {first_line(error)}"
            ) from error
        if not isinstance(loaded, base) and not (
            isinstance(loaded, type) and issubclass(loaded, base)
        ):
            raise PluginError(
                f"{place}: {entry.value} must be a {base.__name__}; got {shown(loaded)}"
            )
        if self.attribute and (stated := getattr(loaded, self.attribute, None)) != name:
            raise PluginError(
                f"{place}: {self.attribute} of {entry.value} must be {name!r}, the name of its"
                f" entry point; got {stated!r}"
            )
        return loaded

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

    def items(self) -> Any:
        """The pairs of all names that can be used."""
        return {name: self[name] for name in self if self.usable(name)}.items()

    def values(self) -> Any:
        """The objects of all names that can be used."""
        return dict(self.items()).values()

    def usable(self, name: str) -> bool:
        """Load the object of that name; a warning and False if it is of a plugin that cannot be
        used.
        """
        try:
            self[name]
        except PluginError as error:
            warn_in_a_line(f"{error}; it is left out")
            return False
        return True

    def plugins(self) -> Mapping[str, EntryPoint]:
        """The entry points of installed packages in this group, by name, in alphabetical order.

        PluginError if two packages, or a package and flashnas, define one name.
        """
        entries: dict[str, EntryPoint] = {}
        for entry in _entry_points(self.group):
            other = entries.get(entry.name)
            if entry.name in self.shipped or (other is not None and other.value != entry.value):
                owner = f"the package {package_of(other)}" if other else "flashnas itself"
                raise PluginError(
                    f"{self.noun} {entry.name!r} of the package {package_of(entry)} has the name"
                    f" of one of {owner}; uninstall one of the packages"
                )
            entries[entry.name] = entry
        return entries

    def origin(self, name: str) -> str:
        """`flashnas`, or the name of the package that adds the entry; raises the registry's error
        if it is unknown."""
        self._check(name)
        return "flashnas" if name in self.shipped else package_of(self.plugins()[name])

    def described(self) -> dict[str, str]:
        """Name -> one line: the summary of what flashnas brings, the docstring's first sentence of
        a plugin."""
        lines = {name: self.summaries.get(name, "") for name in self.shipped}
        for name in self.plugins():
            doc = getattr(self[name], "__doc__", None) if self.usable(name) else "Cannot be used."
            lines[name] = f"{first_sentence(doc or '')} (from {self.origin(name)})"
        return lines

    def _check(self, name: object) -> None:
        if name not in self:
            raise self.error(one_of(self.noun, name, self))


@functools.cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """In an order that does not depend on the order of the folders on sys.path."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def forget_plugins() -> None:
    """Read the installed packages again, after one was installed while this process runs (tests,
    notebooks)."""
    _entry_points.cache_clear()


def installed_plugins() -> dict[str, list[str]]:
    """The names that each installed package adds to flashnas, by package and version."""
    names: dict[str, set[str]] = {}
    for group in entry_points().groups:
        for entry in _entry_points(group) if group.startswith("flashnas.") else ():
            if entry.dist is not None:
                package = f"{package_of(entry)} {entry.dist.version}"
                names.setdefault(package, set()).add(entry.name)
    return {package: sorted(names[package]) for package in sorted(names)}


@contextlib.contextmanager
def foreign_errors(*things: tuple[str, object], direct: bool = True) -> Iterator[None]:
    """Within the block, what the code of another package raises is a PluginError, in one line with
    the place of that code; flashnas' own errors and those of its own code stay. It costs nothing
    until something is raised.

    Args:
        things: (what it is in words, such as "sampler", the object or its class), for each one that
            is called.
        direct: the block calls the first thing itself, so that an error without a frame of any
            thing, such as a call with too many arguments, comes from there.
    """
    try:
        yield
    except FlashnasError:
        raise
    except (Exception, SystemExit) as error:
        noun, first = things[0]
        place = blamed(error, things) or (
            f"{noun} {code_name(first)}" if direct and top_package(first) != "flashnas" else ""
        )
        if not place:
            raise
        raise PluginError(f"{place} raised {type(error).__name__}: {first_line(error)}") from error


# -- shipped data: beside the package in a checkout, inside it (`flashnas/_shipped`) in an installed wheel --

PACKAGE = Path(__file__).parent.parent


def shipped_root(folder: str) -> Path:
    """`search_spaces`, `latency_tables`, `examples` or `experiments` as shipped with this version."""
    installed = PACKAGE / "_shipped" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


def shipped_names(folder: str) -> dict[str, Path]:
    """Shipped spaces or tables by name: YAML files of a folder, and folders with a meta.yaml."""
    root = shipped_root(folder)
    found = [*root.glob("*.yaml"), *(path.parent for path in root.glob("*/meta.yaml"))]
    return {path.stem: path for path in sorted(found)}


def is_shipped(path: str | Path, folder: str) -> bool:
    """True for a file within `folder` as shipped with this version."""
    return Path(path).resolve().is_relative_to(shipped_root(folder).resolve())


# -- objects of other packages ---------------------------------------------------------------------


def top_package(thing: object) -> str:
    return class_of(thing).__module__.partition(".")[0]


def class_of(thing: object) -> Any:
    return thing if hasattr(thing, "__qualname__") else type(thing)


def code_name(thing: object) -> str:
    """`module:name` of a class or function, or of the class of another object."""
    named = class_of(thing)
    return f"{named.__module__}:{named.__qualname__}"


def package_of(entry: EntryPoint) -> str:
    """Its name, or the module's where it states none."""
    dist = entry.dist
    return entry.module if dist is None or "Name" not in dist.metadata else dist.name


def blamed(error: BaseException, things: tuple[tuple[str, object], ...]) -> str:
    """`space pkg.module:Class.mutate`: the first function of the thing whose package was entered
    last before the error."""
    nouns = {top_package(thing): noun for noun, thing in reversed(things)} | {"flashnas": ""}
    found = inside = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        noun = nouns.get(module.partition(".")[0], "")
        if noun and noun != inside:
            found = f"{noun} {module}:{frame.f_code.co_qualname}"
        inside = noun
    return found
