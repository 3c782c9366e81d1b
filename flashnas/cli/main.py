"""`flashnas COMMAND`: flags to options, the command, exit code.

Exit codes: 0; 2 for what the user got wrong; 4 for a training that diverged (`train`); 130 for
Ctrl-C, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flashnas
from flashnas.base.errors import FlashnasError
from flashnas.base.settings import Settings
from flashnas.base.system import NO_ROOM, terminate_as_interrupt
from flashnas.base.text import LineWarning, did_you_mean, printable
from flashnas.cli.command import COMMANDS, Command, command_line
from flashnas.cli.options import (
    OneLineParser,
    add_options,
    check_known,
    message_of,
    options_of,
    spelling_of,
)

LONGEST_MESSAGE = 1000  # characters: nobody reads more


def build_parser(
    words: Sequence[str],
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, Command]:
    """The parser, the part of it that reads the options of the command in `words`, and that
    command.

    Only that command gets its options, so that nothing is imported for the others.
    """
    parser = OneLineParser(
        prog="flashnas",
        help_column=18,
        description="Latency-aware search for hybrid small language models.",
    )
    parser.add_argument("--version", action="version", version=f"flashnas {flashnas.__version__}")
    # of another package only the command that is used, so that a broken or slow one is no matter
    # for others
    names = (
        words[:1]
        if words and words[0] in COMMANDS
        else [name for name in COMMANDS if name in words[:1] or COMMANDS.usable(name)]
    )
    commands = Command("", actions={name: COMMANDS[name] for name in names})
    return parser, *_fill(parser, "command", commands, words)


def _fill(
    parser: argparse.ArgumentParser,
    dest: str,
    command: Command,
    words: Sequence[str],
) -> tuple[argparse.ArgumentParser, Command]:
    """Add the options of a command, or its actions and the options of the one in `words`."""
    if not command.actions:
        add_options(parser, command.options_class)
        return parser, command
    children = parser.add_subparsers(
        dest=dest, metavar=dest.upper(), required=True, parser_class=OneLineParser
    )
    chosen = parser, command
    for name, action in command.actions.items():
        child = children.add_parser(
            name, help=action.summary, description=action.description, allow_abbrev=False
        )
        if words[:1] == [name]:
            chosen = _fill(child, "action", action, words[1:])
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A traceback appears for our own bugs only."""
    prepare_streams()
    with terminate_as_interrupt(), warnings.catch_warnings():
        warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
        code = 0
        try:
            code = _main(list(sys.argv[1:] if argv is None else argv) or ["--help"])
            sys.stdout.flush()
        except KeyboardInterrupt:  # before its options are known
            return _interrupted("flashnas", "")
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code


def prepare_streams() -> None:
    """Let a command print whatever it has to say: to nowhere where the caller has closed a stream,
    and with escapes in place of letters that the encoding of the terminal does not have."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for the whole process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(
    otherwise: Callable[..., None],
    message: Warning,
    category: type[Warning],
    *where: Any,
    **more: Any,
) -> None:
    if issubclass(category, LineWarning):
        print(f"flashnas: {one_line(str(message))}", file=sys.stderr)
    else:
        # a plug-in's text without what a terminal obeys
        otherwise(category(printable(message)), category, *where, **more)


def _main(arguments: list[str]) -> int:
    words = [word for word in arguments if not word.startswith("-")]
    name = words[0] if words else None
    try:
        if "--print-completion" in arguments:
            return _fail("flashnas", "--print-completion of 0.2.0 is gone; --help lists the flags")
        if name in flashnas.GONE:
            return _fail("flashnas", f"the command {name} of 0.2.0 is gone; {flashnas.GONE[name]}")
        if name is not None and name not in COMMANDS:
            return _fail(
                "flashnas",
                f"no command {name!r}{did_you_mean(name, COMMANDS)};"
                f" commands: {', '.join(COMMANDS)}",
            )
        parser, chosen, command = build_parser(words)
        namespace, unknown = parser.parse_known_args(arguments)
        check_known(chosen, unknown, command.options_class)
    except SystemExit as stop:
        return int(stop.code or 0)
    except FlashnasError as error:
        return _fail("flashnas", str(error))
    return _run(f"flashnas {name}", command, namespace, arguments)


def _run(prog: str, command: Command, namespace: argparse.Namespace, words: Sequence[str]) -> int:
    options = None
    try:
        options = options_of(command.options_class, namespace)
        return command.call(options, namespace.json)
    except FlashnasError as error:
        return _fail(prog, message_of(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        where = f": {error.filename}" if error.filename else ""
        more = ""
        if error.errno in NO_ROOM and command.resumable and options is not None:
            more = f"; free room; {continuing(words, options)}"
        return _fail(prog, f"{error.strerror}{where}{more}")
    except KeyboardInterrupt:
        again = continuing(words, options) if command.resumable and options is not None else ""
        return _interrupted(prog, again)


def continuing(words: Sequence[str], options: Settings) -> str:
    """The command that continues what `words` began, in words."""
    out = getattr(options, "out", None)
    if words[0] == "search" and (Path(str(out)) / "run.yaml").exists():
        # which holds the other options
        again = ["search", "--resume", str(out), *_connecting(options)]
    else:
        again = [
            *words,
            *(["--out", str(out)] if out is not None and "--out" not in " ".join(words) else []),
            *(["--resume"] if hasattr(options, "resume") and "--resume" not in words else []),
        ]
    return f"finished work is kept; continue with: {command_line(again)}"


def _connecting(options: Settings) -> list[str]:
    """The words for what connects to another machine, which is not taken from a run folder."""
    words = []
    for name, key in options.connections():
        value = getattr(options, name)
        words += [
            spelling_of(options.setting(name)),
            str(value) if key is None else f"{key}={value[key]}",
        ]
    return words


def _interrupted(prog: str, after: str) -> int:
    print(f"\n{prog}: interrupted{f'; {after}' if after else ''}", file=sys.stderr)
    return 130


def _fail(prog: str, message: str) -> int:
    print(f"{prog}: {one_line(message)}", file=sys.stderr)
    return 2


def one_line(message: str) -> str:
    """The message without line ends and other characters that a terminal obeys, cut where it is
    long.
    """
    plain = printable(message)
    return plain if len(plain) <= LONGEST_MESSAGE else f"{plain[:LONGEST_MESSAGE]}.."


if __name__ == "__main__":
    sys.exit(main())
