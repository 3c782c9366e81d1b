"""What a command is, and all commands by name: those of flashnas and those that other packages add.

A package adds a command by an entry point of the group `flashnas.commands`; its object is a Command:

    @dataclass(frozen=True, kw_only=True)
    class HelloOptions(Settings, where="hello"):
        name: str = option(REQUIRED, "whom to greet", positional=True)

    HELLO = Command("greet somebody", HelloOptions, lambda options, json: print(f"hello {options.name}"))
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flashnas.base.errors import ConfigError
from flashnas.base.hints import printable
from flashnas.base.registry import Registry, load_object
from flashnas.base.settings import Settings
from flashnas.base.urls import without_password

T = TypeVar("T")
Run = Callable[[Any, bool], int | None]


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    summary: one line for the help.
    options: the class of its options, or "module:Class", which is imported when the command is used.
    run: called with the options and whether --json was given; returns the exit code, None for 0. Or
        "module:function".
    actions: name -> command, for a command that has its own, such as `flashnas table info`.
    resumable: --resume continues what was interrupted.
    after: what an interrupt leaves, in words.
    """

    summary: str
    options: type[Settings] | str | None = None
    run: Run | str | None = None
    actions: Mapping[str, Command] = field(default_factory=dict)
    resumable: bool = False
    after: str = ""

    @property
    def description(self) -> str:
        return f"{self.summary[0].upper()}{self.summary[1:]}."


def loaded(value: T | str) -> T:
    """The object itself, or that at "module:object"."""
    return load_object(value) if isinstance(value, str) else value


def show(result: Any, as_json: bool) -> None:
    """What a function of the API returned: its dictionary as one JSON object, or its text, without what a
    terminal obeys."""
    text = "\n".join(map(printable, str(result).split("\n")))
    print(json.dumps(result.to_dict(), default=str) if as_json else text)


def calling(function: str, progress: Callable[[Any], Any] | None = None, *, notes: bool = False) -> Run:
    """Run a function of the API by "module:function" and show what it returns.

    Args:
        function: it takes the options and, with `progress`, the method `update` of the line on stderr.
        progress: class of that line.
        notes: the function also takes `note`, whose lines go above that line.
    """
    def run(options: Any, as_json: bool) -> None:
        call = load_object(function)
        if progress is None:
            result = call(options)
        else:
            with progress(sys.stderr) as line:
                result = call(options, progress=line.update, **({"note": line.note} if notes else {}))
        show(result, as_json)
        for warning in getattr(result, "warnings", ()):
            print(printable(warning), file=sys.stderr)
    return run


def noting(function: str) -> Run:
    """Run a function of the API that takes the options and `note`, whose lines go to stderr."""
    def run(options: Any, as_json: bool) -> None:
        def note(text: str) -> None:
            print(printable(text), file=sys.stderr, flush=True)
        show(load_object(function)(options, note=note), as_json)
    return run


def command_line(words: Sequence[str] | None = None) -> str:
    """The command of these words, by default of this process, without passwords: for records and messages."""
    return shlex.join(["flashnas", *map(without_password, sys.argv[1:] if words is None else words)])


COMMANDS: Registry[Command] = Registry("command", "flashnas.commands", {
    "search": "flashnas.cli.commands:SEARCH",
    "worker": "flashnas.cli.commands:WORKER",
    "estimate": "flashnas.cli.commands:ESTIMATE",
    "evidence": "flashnas.cli.commands:EVIDENCE",
    "profile": "flashnas.cli.commands:PROFILE",
    "validate": "flashnas.cli.commands:VALIDATE",
    "proxy-trust": "flashnas.cli.commands:PROXY_TRUST",
    "scaling-law": "flashnas.cli.commands:SCALING_LAW",
    "train": "flashnas.cli.commands:TRAIN",
    "export": "flashnas.cli.commands:EXPORT",
    "eval": "flashnas.cli.commands:EVAL",
    "push": "flashnas.cli.commands:PUSH",
    "report": "flashnas.cli.commands:REPORT",
    "dashboard": "flashnas.cli.commands:DASHBOARD",
    "runs": "flashnas.cli.commands:RUNS",
    "compare": "flashnas.cli.commands:COMPARE",
    "pareto": "flashnas.cli.commands:PARETO",
    "table": "flashnas.cli.commands:TABLE",
    "bench": "flashnas.cli.commands:BENCH",
    "list": "flashnas.cli.commands:LIST",
    "new": "flashnas.cli.commands:NEW",
    "doctor": "flashnas.cli.commands:DOCTOR",
}, ConfigError, base="flashnas.cli.command:Command")
