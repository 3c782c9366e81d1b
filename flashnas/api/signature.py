"""The signature and the docstring of a function of the API, from its options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence

from flashnas.base.settings import REQUIRED, Setting

# keywords that several functions have beside their options
MORE = {
    "progress": "(Callable): called with what is done and with all that is to do",
    "note": "(Callable): called with lines for the user",
    "command": "(str): what the folder records as the command that made it",
}


def signature_of(
    settings: Sequence[Setting],
    own: dict[str, inspect.Parameter],
    objects: Mapping[str, str],
) -> inspect.Signature:
    parameters = []
    for setting in settings:
        default = None if callable(setting.default) else setting.default
        parameters.append(
            inspect.Parameter(
                setting.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if setting.positional
                else inspect.Parameter.KEYWORD_ONLY,
                annotation=_type(setting, objects),
                default=inspect.Parameter.empty if setting.default is REQUIRED else default,
            )
        )
    return inspect.Signature([*parameters, *own.values()])


def _type(setting: Setting, objects: Mapping[str, str]) -> str:
    kind = getattr(setting.kind, "__name__", "Any")
    if setting.container is not None:
        kind = f"Sequence[{kind}]" if setting.container is tuple else f"Mapping[str, {kind}]"
    names = [kind, objects.get(setting.name), *(name.partition(":")[2] for name in setting.objects)]
    return " | ".join(filter(None, [*names, "None" if setting.optional else ""]))


def documented(
    doc: str, settings: Sequence[Setting], objects: Mapping[str, str], own: Iterable[str]
) -> str:
    """The docstring with `Args:` in front of `Returns:`."""
    lines = [
        f"    {setting.name} ({_type(setting, objects)}): {setting.doc}{_limits(setting)}."
        for setting in settings
    ]
    head, further, rest = re.fullmatch(  # type: ignore[union-attr]  # always
        r"(.*?)(?:\n\nFurther:\n(.*?))?(\n\nReturns:.*)?", doc, re.DOTALL
    ).groups("")
    lines += [
        further,
        *(
            f"    {name} {MORE[name]}."
            for name in own
            if name in MORE and f"{name} (" not in further
        ),
    ]
    return "\n".join(filter(None, [f"{head}\n\nArgs:", *lines])) + rest


def _limits(setting: Setting) -> str:
    words = [
        f"{name} {limit:{',' if isinstance(limit, int) else 'g'}}"
        for name, limit in (
            ("at least", setting.min),
            ("above", setting.above),
            ("at most", setting.max),
            ("below", setting.below),
        )
        if limit is not None
    ]
    if setting.shown:  # others are in the signature
        words.append(f"default: {setting.shown}")
    return f" ({', '.join(words)})" if words else ""
