"""`flashnas COMMAND`: parse, call, print. Exit code 0, 2 for what the user got wrong, 3 for a budget that is missed
as measured (`search --strict`), 4 for a training that diverged (`train`), 130 for Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import flashnas
from flashnas.base.errors import FlashnasError
from flashnas.base.hints import did_you_mean

# one module per command, imported only when its command is called
COMMANDS = {
    "search": "find Pareto-optimal architectures within a latency budget",
    "estimate": "latency, memory and size of one architecture, with breakdown and sources",
    "profile": "measure on this device what a space needs and its table lacks",
    "validate": "time sampled architectures end to end and compare with a table's predictions",
    "proxy-trust": "say how far the order of a finished run is to be trusted, by longer training and more seeds",
    "train": "train one architecture for longer, with checkpoints, by one or several processes",
    "export": "write a network for transformers and lm-evaluation-harness, or for Nemotron-Flash runtimes",
    "report": "write report.html and pareto.png of a run",
    "table": "show, import and merge latency tables",
}
RESUMABLE = ("search", "train")


class OneLineParser(argparse.ArgumentParser):
    """argparse with one line per error."""

    def error(self, message: str) -> NoReturn:
        # of several processes that torchrun started with the same words, the first one speaks
        silent = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"
        self.exit(2, None if silent else f"{self.prog}: {message} (see {self.prog} --help)\n")


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"flashnas.cli.{command.replace('-', '_')}")


def parse(command: str | None, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse with the options of `command` alone, so that no other command's imports are paid; SystemExit on errors."""
    parser = OneLineParser(prog="flashnas", description="Latency-aware search for hybrid small language models.")
    parser.add_argument("--version", action="version", version=f"flashnas {flashnas.__version__}")
    chosen: argparse.ArgumentParser = parser
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=OneLineParser)
    for name, summary in COMMANDS.items():
        child = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".",
                                    allow_abbrev=False)
        if name == command:
            _module(name).add_arguments(child)
            chosen = child
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [text for action in chosen._actions for text in action.option_strings]
        chosen.error(f"does not know {unknown[0]!r}{did_you_mean(unknown[0].partition('=')[0], known)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A traceback appears for our own bugs only."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        print(f"flashnas: no command {command!r}{did_you_mean(command, COMMANDS)};"
              f" commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        options = parse(command, arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return int(_module(options.command).run(options) or 0)
    except FlashnasError as error:
        print(f"flashnas {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        again = "; free room and continue with --resume, finished work is kept" if options.command in RESUMABLE else ""
        print(f"flashnas {options.command}: {error.strerror}{where}{again}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; continue with --resume, finished work is kept" if options.command in RESUMABLE else ""
        print(f"\nflashnas {options.command}: interrupted{again}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
