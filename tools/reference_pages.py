"""Write what docs/commands.md and docs/api.md say of the code: the options of each command from its
parser, and the signatures of the public names from the package.

    python tools/reference_pages.py

What people write in these pages stays: in docs/commands.md all but the part between the two marks;
in docs/api.md all but what follows the comment of an entry, such as
`<!-- ::: flashnas.api.search.search -->`. A new name needs its heading and such a comment.
"""

import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

from flashnas.base.settings import Setting, Settings, settings_of
from flashnas.cli.command import COMMANDS, Command
from flashnas.cli.options import flags_of, help_of, placeholder_of

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARKS = "<!-- made by tools/reference_pages.py -->", "<!-- end -->"
# heading, path and text of an entry of docs/api.md
ENTRY = re.compile(r"(?ms)^### (\S+)\n\n<!-- ::: (\S+) -->\n.*?(?=^#|\Z)")
WIDTH = 100


# -- docs/commands.md ------------------------------------------------------------------------------


def commands_page(text: str) -> str:
    """The page with the options of every command."""
    head, mark, rest = text.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    sections = [
        section for name in COMMANDS.shipped for section in sections_of(name, COMMANDS[name])
    ]
    return head + mark + "\n\n" + "\n\n".join(sections) + "\n\n" + end + tail


def sections_of(name: str, command: Command) -> Iterator[str]:
    """A section for a command, or for each of its actions."""
    for action, of in command.actions.items():
        yield from sections_of(f"{name} {action}", of)
    if command.actions:
        return
    yield f"## {name}\n\n{command.description}"
    flagged = [setting for setting in settings_of(command.options_class) if setting.flagged]
    keys = [setting for setting in settings_of(command.options_class) if not setting.flagged]
    if flagged:
        yield "\n".join(["| option | meaning |", "|---|---|", *map(option_row, flagged)])
    if keys:
        yield (
            "These are keys of a file for `--config`, and keywords in Python, without a flag:\n\n"
            + "\n".join(["| key | meaning |", "|---|---|", *map(option_row, keys)])
        )


def option_row(setting: Setting) -> str:
    """Flags and placeholder, and the line of the help with the default."""
    words = flags_of(setting) or [setting.name if not setting.flagged else ""]
    if setting.flagged and not setting.is_switch:
        words[-1] = f"{words[-1]} {placeholder_of(setting)}".strip()
    default = f" (default: {str(setting.default).lower()})"
    meaning = help_of(setting) + (default if setting.is_switch and not setting.flagged else "")
    return f"| {' '.join(f'`{word}`' for word in words)} | {cell(meaning)} |"


def cell(text: str) -> str:
    """A text for a table of Markdown."""
    return escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")


# -- docs/api.md -----------------------------------------------------------------------------------


def api_page(text: str) -> str:
    """The page with the signature and one line of every entry."""
    return ENTRY.sub(lambda match: entry(*match.groups()), text).rstrip() + "\n"


def entry(heading: str, path: str) -> str:
    """An entry: heading, comment, signature and the first sentence of the docstring."""
    module, _, name = path.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    lines = signature(thing, heading, "class" if inspect.isclass(thing) else "")
    if inspect.isclass(thing):
        lines += [f"    {line}" for member in members(thing) for line in member]
    code = "\n".join(["```py", *lines, "```"])
    return f"### {heading}\n\n<!-- ::: {path} -->\n{code}\n\n{first_sentence(thing)}\n\n"


def members(cls: type) -> Iterator[list[str]]:
    """The signatures of the public methods and properties that a class documents, also of those
    that it inherits, but for what all options have."""
    for name in dir(cls):
        owner = next(base for base in cls.__mro__ if name in vars(base) or base is object)
        if name.startswith("_") or not owner.__module__.startswith("flashnas") or owner is Settings:
            continue
        value = vars(owner)[name]
        if not value.__doc__:
            continue
        if isinstance(value, property | functools.cached_property):
            yield [name]
        elif callable(getattr(cls, name)) and not inspect.isclass(value):
            yield signature(getattr(cls, name), name, "")


class Plain(str):
    """A text that a signature shows without quotes."""

    __repr__ = str.__str__


def signature(thing: Any, name: str, before: str) -> list[str]:
    """The lines of a signature without types, which the site has; parameters are not broken.
    Defaults that are functions are `...`."""
    head = f"{before} {name}".strip()
    if inspect.isclass(thing) and (issubclass(thing, Exception | Enum) or is_protocol(thing)):
        return [head]
    found = inspect.signature(thing)
    parts, starred = [], False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        default = parameter.default
        if default is not parameter.empty and (callable(default) or repr(default) == "<factory>"):
            default = Plain("...")
        elif isinstance(default, Path):
            default = str(default)
        shown = parameter.replace(annotation=parameter.empty, default=default)
        parts.append(str(shown))
    whole = f"{head}({', '.join(parts)})"
    if len(whole) <= WIDTH:
        return [whole]
    together = ", ".join(part.replace(" ", "\0") for part in parts)
    packed = textwrap.wrap(together, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    return [f"{head}(", *(f"    {line}".replace("\0", " ") for line in packed), ")"]


def is_protocol(cls: type) -> bool:
    """True for a class that is one of methods alone, without a constructor."""
    return bool(getattr(cls, "_is_protocol", False))


def first_sentence(thing: Any) -> str:
    """Of a docstring, on one line."""
    paragraph = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0]


PAGES = {"commands.md": commands_page, "api.md": api_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page((DOCS / name).read_text(encoding="utf-8")), encoding="utf-8")
