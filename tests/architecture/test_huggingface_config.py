"""What a config.json becomes, and the one line for each thing that is wrong with it."""

import json
import re

import pytest
from cases import data_of
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.architecture.huggingface import architecture_from_hf
from flashnas.architecture.huggingface.transformer import TAKEN
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import ArchitectureError
from flashnas.cli.main import main

TABLE = data_of("architecture/huggingface")
TINY = TABLE["tiny"]


def written(folder, data):
    path = folder / "config.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@every(case=TABLE["networks"])
def test_networks(tmp_path, case):
    kind, keys, notation = case
    path = written(tmp_path, {"model_type": kind, **TINY, **keys})
    architecture = architecture_from_hf(path)
    assert architecture == load_architecture(tmp_path) == load_architecture(str(path))
    assert architecture.hash == Architecture.parse(notation).hash
    assert Architecture.parse(architecture.notation) == architecture


@every(case=TABLE["no_configuration"])
def test_what_is_no_configuration_gets_one_line(tmp_path, case):
    text, message = case
    path = written(tmp_path, text)
    line = one_line(ArchitectureError, load_architecture, str(path))
    assert line.startswith(f"{path}{message}"), line


@every(case=TABLE["wrong"])
def test_what_is_wrong_gets_one_line_with_file_and_key(tmp_path, case):
    kind, keys, message = case
    path = written(tmp_path, {"model_type": kind, **TINY, **keys})
    line = one_line(ArchitectureError, load_architecture, str(path))
    assert line.startswith(f"{path}:{message}"), line


@every(case=TABLE["approximations"])
def test_an_approximation_is_named_in_one_line(tmp_path, case, capsys):
    kind, keys, notation, words = case
    path = written(tmp_path, {"model_type": kind, **TINY, "mamba_n_heads": 32, **keys})
    line = f"{path}:model_type: {kind} is read as an approximation: {words}"
    with pytest.warns(UserWarning, match=re.escape(line)):
        assert load_architecture(str(path)).hash == Architecture.parse(notation).hash
    assert main(["estimate", str(tmp_path), "--json"]) == 0
    found = capsys.readouterr()
    assert found.err == f"flashnas: {line}\n"
    assert json.loads(found.out)["params"] == Architecture.parse(notation).params
    assert main(["estimate", str(tmp_path)]) == 0
    assert ("the sizes alone are read" in capsys.readouterr().out) == (kind in TAKEN)


def test_a_factor_that_changes_nothing_is_no_deviation(tmp_path, recwarn):
    keys = {"layer_types": ["attention"] * 2, "attention_multiplier": 0.25}
    load_architecture(str(written(tmp_path, {"model_type": "granitemoehybrid", **TINY, **keys})))
    assert not recwarn
