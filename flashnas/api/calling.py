"""What the functions of the API have in common: the options of a dataclass as keywords, so that an
option is stated once; options that several have; what they return; the folder that they write."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flashnas.base.errors import ConfigError
from flashnas.base.settings import REQUIRED, Setting, Settings, option, settings_of
from flashnas.base.text import shown
from flashnas.families.family import PROGRAMS
from flashnas.latency.workload import CALIBRATION_HELP, CALIBRATIONS, ENGINE, WORKLOAD_HELP

T = TypeVar("T")

# classes that options take objects of
ARCHITECTURE = "flashnas.architecture.architecture:Architecture"
TABLE, SPACE = "flashnas.latency.table:LatencyTable", "flashnas.space.base:SearchSpace"


class Quiet:
    """Progress and notes that nobody wants, as an object or a function."""

    def __call__(self, *_: Any, **__: Any) -> None: ...

    note = update = __call__


silent = Quiet()


def takes(cls: type[Settings]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Turn `function(options, *, more)` into one that takes the fields of `cls` as keywords.

    Options without a flag may be given by position. An instance of `cls` alone is taken as it is.
    The signature and the section `Args` of the docstring are made from the fields; a docstring
    states the keywords of its own under `Further:`, which becomes the end of `Args`. One that is
    None has its default. Objects that are given in place of names are the values of their options; a
    function with the keyword `objects` has them there instead, by the names of the options.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        own = {
            name: parameter
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        apart = own.pop("objects", None) is not None
        settings = sorted(settings_of(cls), key=lambda setting: not setting.positional)
        positional = [setting.name for setting in settings if setting.positional]
        signature = signature_of(settings, own)

        @functools.wraps(function)
        def call(*words: Any, **keywords: Any) -> T:
            more = {name: value for name in own if (value := keywords.pop(name, None)) is not None}
            for name in {"progress", "note"} & {*more}:
                if not callable(more[name]) and not hasattr(more[name], "update"):
                    rule = "must be a function, or an object with the method update"
                    raise ConfigError(f"{cls.where}.{name} {rule}; got {shown(more[name])}")
            if apart:
                more["objects"] = {
                    setting.name: keywords.pop(setting.name)
                    for setting in settings
                    if setting.is_object(keywords.get(setting.name))
                }
            if len(words) == 1 and isinstance(words[0], cls) and not keywords:
                return function(words[0], **more)
            if len(words) > len(positional) or {*positional[: len(words)]} & {*keywords}:
                signature.bind(*words, **keywords)  # raises TypeError in Python's words
            keywords.update(zip(positional, words, strict=False))
            return function(cls.build(**keywords), **more)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.options = cls  # type: ignore[attr-defined]
        call.__doc__ = documented(inspect.getdoc(function) or "", settings)
        return call

    return decorate


def signature_of(
    settings: Sequence[Setting], own: Mapping[str, inspect.Parameter]
) -> inspect.Signature:
    parameters = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD
            if setting.positional
            else inspect.Parameter.KEYWORD_ONLY,
            annotation=type_in_words(setting),
            default=inspect.Parameter.empty
            if setting.default is REQUIRED
            else None
            if callable(setting.default)
            else setting.default,
        )
        for setting in settings
    ]
    more = [each.replace(default=None) if each.default is silent else each for each in own.values()]
    return inspect.Signature([*parameters, *more])


def type_in_words(setting: Setting) -> str:
    """`str | None | Recipe`."""
    words = [inspect.formatannotation(setting.type), setting.instance_words]
    return " | ".join(filter(None, words))


def documented(doc: str, settings: Sequence[Setting]) -> str:
    """The docstring with `Args:` in front of `Returns:`."""
    lines = []
    for setting in settings:
        limits = [f"{words} {limit:,}" for words, limit, _ in setting.bounds]
        if setting.shown:  # other defaults are in the signature
            limits.append(f"default: {setting.shown}")
        more = f" ({', '.join(limits)})" if limits else ""
        lines.append(f"    {setting.name} ({type_in_words(setting)}): {setting.doc}{more}.")
    head, further, rest = re.fullmatch(  # type: ignore[union-attr]  # always
        r"(.*?)(?:\n\nFurther:\n(.*?))?(\n\nReturns:.*)?", doc, re.DOTALL
    ).groups("")
    return "\n".join(filter(None, [f"{head}\n\nArgs:", *lines, further])) + rest


# -- options of several commands -------------------------------------------------------------------


def workload_option(default: Any, more: str = "") -> Any:
    return option(default, WORKLOAD_HELP + more, instance="flashnas.latency.workload:Workload")


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


def default_out(command: str) -> Path:
    """A folder by the time, for a command whose option `out` is not given."""
    return Path(f"experiments/runs/{command}-{time.strftime('%Y%m%d-%H%M%S')}")


def writable_out(options: Settings, *, empty: bool = False) -> Path:
    """The folder that the option `out` of a command names, which can be made or written to.

    Args:
        empty: it must not exist, or be empty.

    Raises:
        SettingError: it is no folder, cannot be written to, or must be empty.
    """
    out = Path(options.out)  # type: ignore[attr-defined]
    try:
        with contextlib.suppress(FileNotFoundError):
            out.lstat()  # also says whether a name is too long, or a part a file
        existing = next((path for path in (out, *out.parents) if os.path.lexists(path)), Path("."))
        if not existing.is_dir():
            options.wrong("out", f"{out}: {existing} is no folder; choose another")
        if empty and existing == out and any(out.iterdir()):
            options.wrong("out", f"{out}: exists and is not empty; choose another folder")
        os.rmdir(tempfile.mkdtemp(dir=existing, prefix=".flashnas-"))
    except OSError as error:
        options.wrong("out", f"{out}: cannot be written: {error.strerror or error}")
    return out
