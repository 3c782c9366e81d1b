"""Objects of other packages: one is loaded by its entry point, and checked; and whose code an error
comes from."""

from __future__ import annotations

import traceback
from importlib.metadata import EntryPoint
from typing import Any

from flashnas.base.errors import PluginError
from flashnas.base.text import first_line, shown


def load_plugin(entry: EntryPoint, noun: str, base: Any, attribute: str) -> Any:
    """The object of an entry point. PluginError where it cannot be imported, is neither an instance
    nor a subclass of `base`, or states another name in `attribute`."""
    name = entry.name
    place = f"{noun} {name!r} of the package {package_of(entry)}"
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        # whatever a foreign module raises while it is imported
        raise PluginError(
            f"{place} cannot be loaded from {entry.value}: {type(error).__name__}:"
            f" {first_line(error)}"
        ) from error
    if not (isinstance(loaded, base) or (isinstance(loaded, type) and issubclass(loaded, base))):
        raise PluginError(f"{place}: {entry.value} must be a {base.__name__}; got {shown(loaded)}")
    if attribute and getattr(loaded, attribute, None) != name:
        raise PluginError(
            f"{place}: {attribute} of {entry.value} must be {name!r}, the name of its"
            f" entry point; got {getattr(loaded, attribute, None)!r}"
        )
    return loaded


def is_foreign(thing: object) -> bool:
    return class_of(thing).__module__.partition(".")[0] != "flashnas"


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
    found = inside = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        noun = next(
            (
                noun
                for noun, thing in things
                if is_foreign(thing)
                and module.partition(".")[0] == class_of(thing).__module__.partition(".")[0]
            ),
            "",
        )
        if noun and noun != inside:
            found = f"{noun} {module}:{frame.f_code.co_qualname}"
        inside = noun
    return found
