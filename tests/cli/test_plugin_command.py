"""A command that another package adds by an entry point: in the help, run, with its errors in one
line.
"""

import shlex
import sys

import pytest
from fake_plugins import write_plugin

from flashnas.base.registry import forget_plugins
from flashnas.cli.main import main

CODE = """
from dataclasses import dataclass
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.cli.command import Command

@dataclass(frozen=True, kw_only=True)
class HelloOptions(Settings, where="hello"):
    name: str = option(REQUIRED, "whom to greet", positional=True)
    times: int = option(1, "how often", min=1)

def run(options, as_json):
    print(f"hello {options.name} " * options.times)

HELLO = Command("greet somebody", HelloOptions, run)
"""


@pytest.fixture
def hello(tmp_path, monkeypatch):
    points = {"flashnas.commands": {"hello": "hello_command:HELLO"}}
    write_plugin(tmp_path, "flashnas-hello", points, {"hello_command.py": CODE})
    monkeypatch.syspath_prepend(tmp_path)
    forget_plugins()
    yield
    sys.modules.pop("hello_command", None)
    forget_plugins()


def test_it_is_in_the_help_and_runs(hello, capsys, refused):
    assert main(["--help"]) == 0
    assert ["hello", "greet", "somebody"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert main(shlex.split("hello you --times 2")) == 0
    assert capsys.readouterr().out == "hello you hello you \n"
    line = "flashnas hello: --times must be at least 1; got 0\n"
    assert refused("hello you --times 0") == line
    assert "did you mean 'hello'?" in refused("helo")
    assert main(["list", "plugins"]) == 0
    assert "flashnas-hello 1.0  hello" in capsys.readouterr().out
