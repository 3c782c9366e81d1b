"""What a command is, and all commands by name: those of flashnas and those that other packages add.

A package adds a command by an entry point of the group `flashnas.commands`; its object is a
Command:

    @dataclass(frozen=True, kw_only=True)
    class HelloOptions(Settings, where="hello"):
        name: str = option(REQUIRED, "whom to greet", positional=True)

    def hello(options: HelloOptions, as_json: bool) -> None:
        print(f"hello {options.name}")

    HELLO = Command("greet somebody", HelloOptions, hello)
"""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, TypeVar

from flashnas.base.errors import ConfigError
from flashnas.base.registry import Registry
from flashnas.base.settings import Settings
from flashnas.base.text import printable
from flashnas.cli.progress import CountProgress, LiveLine, SearchProgress, TrainingProgress

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    summary: one line for the help.
    options: the class of its options, or "module:Class", which is imported when the command is
        used.
    run: called with the options and whether --json was given; returns the exit code, None for 0. Or
        "module:function". A function of the API (flashnas.api.calling.takes) has options of its own
        and is called with them; its result is shown.
    actions: name -> command, for a command that has its own, such as `flashnas table info`.
    resumable: the same command continues what was interrupted, with --resume if it has that option.
    counted: what the progress line of a function of the API counts, such as `models timed`. progress:
        that line.
    """

    summary: str
    options: type[Settings] | str | None = None
    run: Callable[..., Any] | str | None = None
    actions: Mapping[str, Command] = field(default_factory=dict)
    resumable: bool = False
    counted: str = ""
    progress: type[LiveLine] = CountProgress

    @property
    def description(self) -> str:
        return f"{self.summary[0].upper()}{self.summary[1:]}."

    @property
    def options_class(self) -> type[Settings]:
        run: Any = loaded(self.run)
        return run.options if self.options is None else loaded(self.options)

    def call(self, options: Settings, as_json: bool) -> int:
        """Run it and return its exit code."""
        function: Any = loaded(self.run)
        if self.options is not None:
            return int(function(options, as_json) or 0)
        with self.progress(sys.stderr, self.summary, self.counted) as line:
            more = {"progress": line, "note": line.note, "command": command_line()}
            takes = {*inspect.signature(function).parameters}
            result = function(options, **{name: more[name] for name in {*more} & takes})
        show(result, as_json)
        for warning in getattr(result, "warnings", ()):
            print(printable(warning), file=sys.stderr)
        return getattr(result, "exit_code", 0)


def loaded(value: T | str) -> T:
    return resolve_name(value) if isinstance(value, str) else value


def show(result: Any, as_json: bool) -> None:
    """What a function of the API returned: its dictionary as one JSON object, or its text, without
    what a terminal obeys."""
    text = "\n".join(map(printable, str(result).split("\n")))
    print(json.dumps(result.to_dict(), default=str) if as_json else text)


def command_line(words: Sequence[str] | None = None) -> str:
    """The command of these words, by default of this process: for records and messages."""
    return shlex.join(["flashnas", *(sys.argv[1:] if words is None else words)])


def _api(summary: str, function: str, counted: str = "", **more: Any) -> Command:
    """A command that runs a function of flashnas.api."""
    return Command(summary, run=f"flashnas.api.{function}", counted=counted, **more)


COMMANDS: Registry[Command] = Registry(
    "command",
    "flashnas.commands",
    {
        "search": _api(
            "find Pareto-optimal architectures within latency budgets",
            "search:search",
            progress=SearchProgress,
            resumable=True,
        ),
        "estimate": _api("latency, memory and size of one architecture", "estimate:estimate"),
        "compare": _api(
            "two architectures or more: latency, memory, loss and recall", "compare:compare"
        ),
        "evidence": _api(
            "published full trainings, and what they say of two mixes", "evidence:evidence"
        ),
        "profile": _api(
            "measure on this device what a space needs",
            "measure:profile",
            "measurements",
            resumable=True,
        ),
        "validate": _api(
            "compare a table's predictions with timed models", "validate:validate", "models timed"
        ),
        "train": _api(
            "train one architecture on one device, with checkpoints",
            "train:train",
            progress=TrainingProgress,
            resumable=True,
        ),
        "export": _api("write a network as GGUF or for transformers", "export:export"),
        "eval": _api(
            "score a trained network on a text of your own",
            "evaluate:evaluate",
            "windows scored",
        ),
        "report": _api("write report.html and pareto.png of a run", "run:report"),
        "table": Command(
            "show and import latency tables",
            actions={
                "info": _api(
                    "what a table can answer and where its rows are from", "tables:table_info"
                ),
                "import": _api("turn public measurements into a table", "tables:import_table"),
            },
        ),
        "list": _api("names that options take: tables, spaces, samplers, ..", "listing:names"),
        "new": _api("write a package of your own that adds to flashnas", "new:new"),
        "doctor": _api(
            "say what runs here, and test every operator", "doctor:doctor", "operators tested"
        ),
    },
    ConfigError,
    base="flashnas.cli.command:Command",
)
