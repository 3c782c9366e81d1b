"""Every command that the documents show is one: programs, files and targets exist, and flashnas
takes the options.
"""

import re
import shlex
import tomllib

import pytest
from documents import ROOT, TEXTS, shell_lines, spans, words_of

from flashnas.base.errors import FlashnasError
from flashnas.cli.command import COMMANDS
from flashnas.cli.main import find_command, main
from flashnas.cli.options import options_of, parser_of, refuse_unknown
from flashnas.run_folder import layout

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TARGETS = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
QUICK = ("estimate", "evidence", "list", "table info")
PLUGINS = ("annealing", "shift", "gsc")  # names of the example packages, not installed here
OWN = (
    *PLUGINS,
    "my_",
    "bundle/",
    "RUN",
    "NAME",
    "KIND",
    "x=1",
    "--show",
)  # of commands that need what a reader made


def refused(words, mentioned=False):
    """Why flashnas does not take these words; empty if it does. Of a command that a sentence
    mentions: of its flags.
    """
    try:
        prog, command, words = find_command(words)
        parser = parser_of(prog, "", command.options_class)
        if mentioned or {*PLUGINS} & {part for word in words for part in re.split(r"[,\s(]", word)}:
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            return " ".join(
                flags - {flag for action in parser._actions for flag in action.option_strings}
            )
        namespace, unknown = parser.parse_known_args(words)
        refuse_unknown(parser, unknown, command.options_class)
        options_of(command.options_class, namespace)
    except FlashnasError as error:
        return str(error)
    except SystemExit:
        return "is not parsed"
    return ""


PROGRAMS = ("flashnas", "python", "pip", "make", "jupyter", "pytest")
FOLDERS = ("benchmarks/", "constraints/", "examples/", "experiments/", "tests/", "tools/")


def missing(program, words):
    """What of a command of another program does not exist: files of a clone, extras, targets."""
    files = [word.removeprefix("./") for word in words if "NAME" not in word]
    lost = [file for file in files if file.startswith(FOLDERS) and not (ROOT / file).exists()]
    extras = re.findall(r"(?:flashnas|\.)\[([\w,-]+)\]", " ".join(words))
    lost += {extra for each in extras for extra in each.split(",")} - {*EXTRAS}
    if program == "make":
        lost += {word for word in words if "=" not in word} - {*TARGETS}
    return lost and f"there is no {', '.join(lost)}"


def commands(lines):
    """Page, program and words, of lines that start with a program, or start one."""
    for name, line in lines:
        text = words_of(line)
        for part in (text, *re.findall(r"(?:--wrap \"|-m )(flashnas [^\"]*)", text)):
            program = part.split(" ")[0]
            if program in PROGRAMS and ".." not in part and " for " not in part and "$" not in part:
                words = shlex.split(part, comments=True)[1:]
                if words and (program != "flashnas" or words[0] in COMMANDS):
                    yield name, program, words


def test_every_command_in_the_documents_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        layout, "recorded_options", lambda run: {}
    )  # of runs that a reader has made
    mentions = ((name, span) for name, text in TEXTS.items() for span in spans(text) if " " in span)
    shown, mentioned = (list(commands(lines)) for lines in (shell_lines(), mentions))
    assert len(shown) > 120
    wrong = {
        f"{name}: {program} {shlex.join(words)}: {problem}"
        for found in (shown, mentioned)
        for name, program, words in found
        if (
            problem := refused(words, found is mentioned)
            if program == "flashnas"
            else missing(program, words)
        )
    }
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.slow  # about ten commands, each of a second
def test_the_quick_commands_in_the_documents_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    lines = sorted(
        {
            shlex.join(words)
            for _, program, words in commands(shell_lines())
            if program == "flashnas"
            and shlex.join(words).startswith(QUICK)
            and not any(own in shlex.join(words) for own in OWN)
            and len(words) > 1
        }
    )
    assert len(lines) > 6
    failed = [f"{line}: {capsys.readouterr().err}" for line in lines if main(shlex.split(line))]
    assert not failed, "\n".join(failed)


def test_the_install_page_has_the_command_of_every_extra():
    shown = re.findall(r"`pip install 'flashnas\[([\w-]+)\]'`", TEXTS["docs/start.md"])
    assert {*shown} == {*EXTRAS} - {"dev"}
