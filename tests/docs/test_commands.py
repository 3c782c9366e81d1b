"""Every command that the documents show is one: programs, files and targets exist, and flashnas
takes the options.
"""

import importlib.util
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
MADE = ("flashnas-shift",)  # folders that a page tells the reader to make
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


SERVING = ("sglang",)  # programs that are not installed here


def python_problem(words):
    if words[:1] == ["-m"]:
        if words[1].partition(".")[0] in SERVING:
            return ""
        return "" if importlib.util.find_spec(words[1]) else f"there is no module {words[1]}"
    if words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
        return ""
    return "" if (ROOT / words[0]).exists() else f"there is no {words[0]}"


def pip_problem(words):
    names = [word for word in words if not word.startswith("-")][1:]
    for name in names:
        path, _, extras = name.rstrip("]").partition("[")
        if path in (".", "flashnas"):
            if missing := {extra for extra in extras.split(",") if extra} - {*EXTRAS}:
                return f"there is no extra {', '.join(missing)}"
            if path == "." and extras and "constraints/" not in " ".join(words):
                return "an extra as only a clone knows it; 'flashnas[..]' works everywhere"
        elif path.startswith("./") and not (ROOT / path).exists():
            return f"there is no {path}"
    return ""


VLLM_PYTHONS = {f"VLLM_PYTHON={path}" for path in ("~/vllm/bin/python", "PATH")}
CHECKS = {
    "flashnas": refused,
    "python": python_problem,
    "pip": pip_problem,
    "make": lambda words: (
        ""
        if {*words} <= {*TARGETS, "DEVICE=cpu", "PYTHON=python3.11", *VLLM_PYTHONS}
        else f"the Makefile has no {' '.join(words)}"
    ),
    "jupyter": lambda words: "" if (ROOT / words[-1]).exists() else f"there is no {words[-1]}",
    "pytest": lambda words: next(
        (
            f"there is no {word}"
            for word in words
            if "/" in word or word in MADE
            if not (ROOT / word).exists() and word not in MADE
        ),
        "",
    ),
}


def commands(lines):
    """Page, program and words, of lines that start with a program, or start one."""
    for name, line in lines:
        text = words_of(line)
        for part in (text, *re.findall(r"(?:--wrap \"|-m )(flashnas [^\"]*)", text)):
            program = part.split(" ")[0]
            if program in CHECKS and ".." not in part and " for " not in part and "$" not in part:
                words = shlex.split(part, comments=True)[1:]
                if words and (program != "flashnas" or words[0] in COMMANDS):
                    yield name, program, words


def test_every_command_in_the_documents_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        layout, "recorded_options", lambda run: {}
    )  # of runs that a reader has made
    shown = list(commands(shell_lines()))
    assert len(shown) > 120
    wrong = {
        f"{name}: {program} {shlex.join(words)}: {problem}"
        for name, program, words in shown
        if (problem := CHECKS[program](words))
    }
    mentions = [(name, span) for name, text in TEXTS.items() for span in spans(text) if " " in span]
    wrong |= {
        f"{name}: {program} {shlex.join(words)}: {problem}"
        for name, program, words in commands(mentions)
        if (problem := refused(words, True) if program == "flashnas" else CHECKS[program](words))
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
