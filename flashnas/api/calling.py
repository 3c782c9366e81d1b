"""What the functions of the API have in common: the options of a dataclass as keywords, so that an
option is stated once; options that several have; what they return; the folder that they write."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flashnas.api.signature import documented, signature_of
from flashnas.base.errors import ConfigError
from flashnas.base.settings import (
    Settings,
    option,
    settings_of,
)
from flashnas.base.text import shown
from flashnas.families.family import PROGRAMS
from flashnas.latency.workload import CALIBRATION_HELP, CALIBRATIONS, ENGINE, WORKLOAD_HELP

T = TypeVar("T")

# classes that options take objects of
ARCHITECTURE = "flashnas.architecture.architecture:Architecture"
TABLE, SPACE = "flashnas.latency.table:LatencyTable", "flashnas.space.base:SearchSpace"

PLAIN = (str, bytes, int, float, list, tuple, dict, set, os.PathLike, type(None))


def silent(*_: Any) -> None:
    """Progress and notes that nobody wants."""


class Quiet:
    """A progress object that shows nothing."""

    def note(self, text: str) -> None: ...
    def update(self, *_: Any) -> None: ...


def takes(
    cls: type[Settings],
    *,
    objects: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Turn `function(options, *, more)` into one that takes the fields of `cls` as keywords.

    Options without a flag may be given by position. An instance of `cls` alone is taken as it is.
    The signature and the section `Args` of the docstring are made from the fields; a docstring
    states the keywords of its own under `Further:`, which becomes the end of `Args`, but for those
    in MORE. One that is None has its default.

    Args:
        cls: the options.
        objects: option name -> type in words, for options in whose place any object may be given.
            The function takes these as its keyword `objects`, a mapping.
    """
    kinds = objects or {}

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        own = {
            name: parameter
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "objects"
        }
        for name, parameter in own.items():
            if parameter.default is silent:
                annotation = f"{parameter.annotation} | None"
                own[name] = parameter.replace(default=None, annotation=annotation)
        settings = sorted(settings_of(cls), key=lambda setting: not setting.positional)
        positional = [setting.name for setting in settings if setting.positional]
        signature = signature_of(settings, own, kinds)

        @functools.wraps(function)
        def call(*words: Any, **keywords: Any) -> T:
            more = {name: value for name in own if (value := keywords.pop(name, None)) is not None}
            for name in {"progress", "note"} & {*more}:
                if not callable(more[name]) and not hasattr(more[name], "update"):
                    raise ConfigError(
                        f"{cls.where}.{name} must be a function, or an object with the method"
                        f" update; got {shown(more[name])}"
                    )
            for name, kind in kinds.items():
                if isinstance(keywords.get(name), type) and not kind.startswith("type["):
                    raise ConfigError(
                        f"{cls.where}.{name} must be text or an object ({kind}); got the class"
                        f" {keywords[name].__name__}"
                    )
            if kinds:
                more["objects"] = {
                    name: keywords.pop(name)
                    for name in kinds
                    if not isinstance(keywords.get(name), PLAIN)
                }
            if len(words) == 1 and isinstance(words[0], cls) and not keywords:
                return function(words[0], **more)
            if len(words) > len(positional) or set(positional[: len(words)]) & set(keywords):
                signature.bind(*words, **keywords)  # raises TypeError in Python's words
            keywords.update(zip(positional, words, strict=False))
            return function(cls.build(**keywords), **more)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.options = cls  # type: ignore[attr-defined]
        call.__doc__ = documented(inspect.getdoc(function) or "", settings, kinds, own)
        return call

    return decorate


# -- options of several commands -------------------------------------------------------------------


def workload_option(default: Any, more: str = "") -> Any:
    return option(default, WORKLOAD_HELP + more, objects=("flashnas.latency.workload:Workload",))


def calibration_option() -> Any:
    return option(ENGINE, CALIBRATION_HELP, choices=CALIBRATIONS)


def runtime_option() -> Any:
    return option(
        (),
        "programs whose host the milliseconds are of, such as sglang; several: with the interval of all",
        metavar="A,B,..",
        choices=PROGRAMS,
        separator=",",
        shown="the latest vLLM of the table",
    )


def vllm_python_option() -> Any:
    return option(
        None,
        "interpreter in which vLLM is installed",
        metavar="PATH",
        shown="$FLASHNAS_VLLM_PYTHON, or this one",
        yaml=False,
    )


# -- what commands return --------------------------------------------------------------------------


class Result:
    """Base of the dataclasses that commands return. `print` shows them; the fields that `repr` has
    are those of `--json`. A command prints its `warnings`, if there are, and ends with its `exit_code`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is one
        return {field.name: getattr(self, field.name) for field in fields if field.repr}


def writable_out(options: Settings, *, empty: bool = False) -> Path:
    """The folder that the option `out` of a command names, which can be made or written to.

    Args:
        empty: it must not exist, or be empty.

    Raises:
        SettingError: it is a file, lies below one, cannot be made, cannot be written to, or must be
            empty.
    """
    out = Path(options.out)  # type: ignore[attr-defined]

    def refuse(reason: str) -> Any:
        options.wrong("out", f"{out}: {reason}")

    for at, part in enumerate(out.parts):
        if part == ".." and not os.path.exists(Path(*out.parts[:at])):
            refuse(
                f"there is no {Path(*out.parts[:at])}, so that its .. leads nowhere; choose another"
                " folder"
            )
    try:
        existing = next((path for path in (out, *out.parents) if os.path.lexists(path)), Path("."))
        if not existing.is_dir():
            kind = (
                "a link to nothing" if existing.is_symlink() and not existing.exists() else "a file"
            )
            refuse(
                f"is {kind}; choose another folder"
                if existing == out
                else f"{existing} is {kind}, not a folder"
            )
        if empty and existing == out and any(out.iterdir()):
            refuse("exists and is not empty; choose another folder")
        if (longest := max((len(os.fsencode(part)) for part in out.parts), default=0)) > 255:
            refuse(f"a name of {longest} bytes is too long; at most 255 are possible")
        os.rmdir(tempfile.mkdtemp(dir=existing, prefix=".flashnas-"))
    except OSError as error:
        refuse(f"cannot be written: {error.strerror or error}")
    return out
