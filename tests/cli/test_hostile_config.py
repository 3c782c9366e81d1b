"""A file for --config and a run folder of a stranger: no command connects to another machine
because of them, none starts a program, and none writes outside its own folder."""

import shlex
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cases import data_of

from flashnas.api.evaluate import EvalOptions
from flashnas.api.search import SearchOptions
from flashnas.base.documents import read_yaml
from flashnas.base.errors import ConfigError
from flashnas.base.settings import settings_of
from flashnas.cli.command import COMMANDS
from flashnas.cli.main import main

TABLE = data_of("cli/hostile_config")


def leaves(commands, before=""):
    for name, command in commands.items():
        if command.actions:
            yield from leaves(command.actions, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


LEAVES = dict(leaves({name: COMMANDS[name] for name in COMMANDS.shipped}))


class Watch:
    """A socket of this machine that listens, and a folder outside of what a command may write."""

    def __init__(self, outside):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.port, self.outside = self.server.getsockname()[1], outside
        outside.mkdir()
        for name in ("precious.json", "precious.db", "precious.png"):
            (outside / name).write_text("mine")
        self.program = outside.parent / "program"
        self.program.write_text(f"#!/bin/sh\ntouch {outside}/started\n")
        self.program.chmod(0o755)
        (outside.parent / "their_code.py").write_text(f"open({str(outside / 'run')!r}, 'w')\n")
        self.before = self.content()

    def content(self):
        return {
            path: path.read_bytes() if path.is_file() else None for path in self.outside.rglob("*")
        }

    def connected(self):
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def check(self, words):
        assert not self.connected(), f"{words} connects"
        assert self.content() == self.before, f"{words} writes outside"

    def filled(self, text):
        text = text.replace("PROGRAM", str(self.program))
        return text.replace("PORT", str(self.port)).replace("OUTSIDE", str(self.outside))


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A hub by the socket that listens; the command works in a folder of its own, without a Ray of
    the user's.
    """
    watch = Watch(tmp_path / "outside")

    def load_dataset(*_, **__):
        socket.create_connection(("127.0.0.1", watch.port)).close()
        raise ConnectionError("no such text")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path)
    yield watch
    watch.server.close()


def written(path, data):
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return str(path)


def in_place_of(setting, value):
    """The value in the form that the option takes."""
    if setting.container is dict:
        return {"address": value}
    return [value] if setting.container is tuple else value


# -- files for --config ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "search" else name
        for name in sorted(LEAVES)
    ],
)
def test_no_key_of_a_config_connects_runs_a_program_or_writes_outside(
    name, watch, small_corpus, quick_recipe, tmp_path, capsys
):
    own = {"TEXTS": str(small_corpus), "RECIPE": str(quick_recipe)}
    for setting in settings_of(LEAVES[name].options_class):
        if setting.is_switch or setting.choices or setting.kind in (int, float):
            continue
        given = [
            own.get(word, word)
            for option, words in TABLE["needed"].get(name, {}).items()
            if option != setting.name
            for word in shlex.split(words)
        ]
        for value in map(watch.filled, TABLE["values"]):
            config = {
                setting.name: in_place_of(setting, value),
                **TABLE["beside"].get(setting.name, {}),
            }
            words = [*name.split(), *given, "--config", written(tmp_path / "c.yaml", config)]
            code = main(words)
            watch.check((words, config))
            said = capsys.readouterr().err
            assert code in (0, 1, 2)
            assert code != 2 or (said.count("\n") >= 1 and "Traceback" not in said)


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_file_may_set_what_names_data_alone(name):
    """What names files to write, starts a program or names a class has `yaml=False`. An option that
    takes any text is one of those, or stands in the list of data."""
    for setting in settings_of(LEAVES[name].options_class):
        free = not setting.choices and setting.kind in (str, Path, Any)
        assert not (setting.yaml and free) or setting.name in TABLE["data"], setting.name


def test_what_writes_beside_its_input_takes_that_from_the_command_line_alone():
    """The table of `validate`, the run of `report`, the model of `eval`."""
    for name, keys in (
        ("validate", ["table"]),
        ("report", ["run"]),
        ("eval", ["model"]),
    ):
        cls = LEAVES[name].options_class
        assert [key for key in keys if cls.setting(key).yaml] == []


def test_what_the_user_gives_counts_over_the_file(tmp_path):
    path = written(
        tmp_path / "c.yaml",
        {
            "data": "hf:theirs",
            "executor": "ray",
            "executor_options": {"address": "10.0.0.1:1", "cpus": 2},
        },
    )
    mine = {"data": "hf:mine", "executor_options": {"address": "10.0.0.2:1"}}
    options = SearchOptions.build(read_yaml(path), **mine)
    assert (options.data, options.executor_options) == (
        "hf:mine",
        {"address": "10.0.0.2:1", "cpus": 2},
    )
    assert EvalOptions.build(model="a", text="hf:mine").text == "hf:mine"
    for name in mine:
        with pytest.raises(ConfigError, match="connects to another machine"):
            SearchOptions.build(
                read_yaml(path), **{key: value for key, value in mine.items() if key != name}
            )


# -- run folders -----------------------------------------------------------------------------------


@pytest.fixture
def hostile_run(run_folder, tmp_path, watch):
    """A run folder whose run.yaml names machines and files outside wherever it has a value of
    text.
    """

    def build(**options):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(run_folder, run)
        facts = yaml.safe_load((run / "run.yaml").read_text())
        address, file = f"127.0.0.1:{watch.port}", f"{watch.outside}/new"
        facts["options"] = {
            "space": "tiny",
            "table": "h100_sxm",
            "workload": "chat",
            "workers": 1,
            "trials": 1,
            **options,
        }
        facts |= {
            "storage": f"sqlite:///{file}.db",
            "out": file,
            "start_from": {"runs": [file]},
            "report": f"{file}.html",
        }
        facts["space"] |= {"path": f"{file}.yaml"}
        facts["table"] |= {"path": file, "name": f"http://{address}/"}
        facts["recipe"] |= {"name": file}
        facts["corpus"] |= {"source": "hf:mine/text"}
        facts["host"] |= {"executor": "ray", "address": address}
        written(run / "run.yaml", facts)
        return run

    return build


@pytest.mark.parametrize("command", TABLE["commands_of_a_run"])
def test_no_run_folder_connects_or_writes_outside(command, hostile_run, watch, capsys):
    run = hostile_run(data="hf:mine/text")
    main(shlex.split(command.replace("RUN", str(run))))
    watch.check(command)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("case", TABLE["continued"], ids=str)
def test_a_continued_run_takes_no_address_from_its_folder(case, hostile_run, watch, refused):
    run = hostile_run(**yaml.safe_load(watch.filled(yaml.safe_dump(case["options"]))))
    for more in ("", " --trials 2"):
        line = refused(f"search --resume {run}{more}")
        assert line.startswith(f"flashnas search: {run}/run.yaml:")
        assert case["says"] in line
        watch.check(case)
    with pytest.raises(ConfigError, match=case["says"]):
        SearchOptions.build(resume=str(run))


def test_neither_a_config_nor_a_run_folder_completes_the_other(
    hostile_run, watch, tmp_path, refused
):
    """The address in the one, and the executor that takes it in the other."""
    run = hostile_run(executor="ray")
    config = written(
        tmp_path / "c.yaml", {"executor_options": {"address": f"127.0.0.1:{watch.port}"}}
    )
    line = refused([*shlex.split(f"search --resume {run} --config"), config])
    assert "c.yaml:2: search.executor_options" in line
    watch.check(config)


def test_the_flag_repeats_what_a_run_folder_may_not_ask_for(hostile_run, watch):
    run, address = (
        hostile_run(executor="ray", executor_options={"address": "10.0.0.1:1"}),
        f"127.0.0.1:{watch.port}",
    )
    options = SearchOptions.build(resume=str(run), executor_options={"address": address})
    assert options.executor_options == {"address": address}
    options = SearchOptions.build(resume=str(run), executor="local", data="hf:mine/text")
    assert (options.executor, options.executor_options) == ("local", {})
