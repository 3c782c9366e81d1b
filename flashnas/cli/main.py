"""`flashnas COMMAND`: flags to options, the command, exit code.

Exit codes: 0; 2 for what the user got wrong; 4 for a training that diverged (`train`); 130 for
Ctrl-C, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import flashnas
from flashnas.base.errors import CandidateError, FlashnasError
from flashnas.base.settings import Settings
from flashnas.base.system import NO_ROOM, terminate_as_interrupt
from flashnas.base.text import has_no, printable
from flashnas.cli.command import COMMANDS, Command, command_line
from flashnas.cli.options import message_of, options_of, parser_of, refuse_unknown

SUMMARY = "latency-aware search for hybrid small language models"
DIVERGED = 4  # of a training that ended with NaN, divergence or without memory
LONGEST_MESSAGE = 1000  # characters: nobody reads more


def find_command(words: Sequence[str]) -> tuple[str, Command, list[str]]:
    """`flashnas table info`, the command, and the words behind its name; with what stands before a
    command and is none."""
    prog, command = "flashnas", Command(SUMMARY, actions=COMMANDS)
    while words and command.actions and words[0] in command.actions:
        command = command.actions[words[0]]
        prog, words = f"{prog} {words[0]}", words[1:]
    return prog, command, list(words)


def help_of_actions(prog: str, command: Command) -> str:
    """The commands, or the actions of one, with a line about each. A plug-in that cannot be used is
    left out."""
    lines = [f"usage: {prog} COMMAND .. (or --version)\n", command.description, "", "commands:"]
    for name, action in command.actions.items():
        lines.append(f"  {name:<9} {action.summary}")
    return "\n".join([*lines, "", f"{prog} COMMAND --help shows the options of one"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A traceback appears for our own bugs only."""
    prepare_streams()
    with terminate_as_interrupt(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
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


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"flashnas: {one_line(str(message))}", file=sys.stderr)


def _main(words: list[str]) -> int:
    prog = "flashnas"
    try:
        prog, command, words = find_command(words)
        if command.actions:
            return _without_command(prog, command, words)
        parser = parser_of(prog, command.description, command.options_class)
        namespace, unknown = parser.parse_known_args(words)
        refuse_unknown(parser, unknown, command.options_class)
    except SystemExit as stop:
        return int(stop.code or 0)
    except FlashnasError as error:
        return _fail(prog, str(error))
    return _run(prog, command, namespace, words)


def _without_command(prog: str, command: Command, words: Sequence[str]) -> int:
    """What is printed where no command is named, or one that does not exist."""
    name = words[0] if words else "--help"
    if name == "--version":
        print(f"flashnas {flashnas.__version__}")
    elif name in ("--help", "-h"):
        print(help_of_actions(prog, command))
    elif name in flashnas.GONE:
        return _fail(prog, f"the command {name} of 0.2.0 is gone; {flashnas.GONE[name]}")
    else:
        return _fail(prog, has_no("", "command", name, command.actions).strip())
    return 0


def _run(prog: str, command: Command, namespace: argparse.Namespace, words: Sequence[str]) -> int:
    again = ""
    try:
        options = options_of(command.options_class, namespace)
        again = continuing([*prog.split()[1:], *words], options) if command.resumable else ""
        return command.call(options, namespace.json)
    except FlashnasError as error:
        return _fail(prog, message_of(error), DIVERGED if isinstance(error, CandidateError) else 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        where = f": {error.filename}" if error.filename else ""
        more = f"; free room; {again}" if again and error.errno in NO_ROOM else ""
        return _fail(prog, f"{error.strerror}{where}{more}")
    except KeyboardInterrupt:
        return _interrupted(prog, again)


def continuing(words: Sequence[str], options: Settings) -> str:
    """The command that continues what `words` began, in words."""
    out, flags = getattr(options, "out", None), {word.partition("=")[0] for word in words}
    again = [
        *words,
        *(["--out", str(out)] if out is not None and "--out" not in flags else []),
        *(["--resume"] if hasattr(options, "resume") and "--resume" not in flags else []),
    ]
    return f"finished work is kept; continue with: {command_line(again)}"


def _interrupted(prog: str, after: str) -> int:
    print(f"\n{prog}: interrupted{f'; {after}' if after else ''}", file=sys.stderr)
    return 130


def _fail(prog: str, message: str, code: int = 2) -> int:
    print(f"{prog}: {one_line(message)}", file=sys.stderr)
    return code


def one_line(message: str) -> str:
    """The message without line ends and other characters that a terminal obeys, cut where it is
    long.
    """
    plain = printable(message)
    return plain if len(plain) <= LONGEST_MESSAGE else f"{plain[:LONGEST_MESSAGE]}.."


if __name__ == "__main__":
    sys.exit(main())
