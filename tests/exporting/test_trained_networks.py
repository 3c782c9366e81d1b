"""Short trainings that an answer proposes go out as configurations, and come back as evidence."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import flashnas as fn
from flashnas.loss.load import rows_of
from flashnas.loss.own import own_rows
from flashnas.study.next_trainings import observed

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "short_trainings.py"))
COLUMNS, export_trainings = EXAMPLE["COLUMNS"], EXAMPLE["export_trainings"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("runs") / "a")


def searched(out, **more):
    options = {"space": "granite", "budget_ms": "20k", "params": "0.5B..0.6B", **more}
    return fn.search(**options, train_tokens="2T", out=out)


def lines_of(table):
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def write_losses(table):
    """Into the table of an export."""
    lines = lines_of(table)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(line | {"value": f"{3 + n / 100}"} for n, line in enumerate(lines))


def test_trainings_go_out_and_come_back(run, tmp_path):
    proposed, out = run.answer.next_trainings, tmp_path / "trainings"
    networks, table = export_trainings(str(run.path), out), str(out / "trainings.csv")
    assert [network.notation for network in networks] == proposed["networks"]
    lines = lines_of(table)
    assert list(lines[0]) == COLUMNS
    for number, (line, network) in enumerate(zip(lines, networks, strict=True), 1):
        config = json.loads((out / f"{number:02}" / "config.json").read_text())
        assert config["hidden_size"] == network.hidden == int(line["hidden"])
        assert int(line["params"]) == network.params
    with pytest.raises(fn.FlashnasError, match=r"trainings.csv:2: value must be a number above 0"):
        searched(tmp_path / "b", evidence=table)
    write_losses(table)
    again = searched(tmp_path / "c", evidence=table)
    assert again.answer.without_own["hash"] == run.answer.recommended
    further = again.answer.next_trainings
    assert (
        not {*further["networks"]} & {*proposed["networks"]}
        or further["tokens"] != proposed["tokens"]
    )


@pytest.mark.parametrize("space", ["nemotron_h", pytest.param("layerwise", marks=pytest.mark.slow)])
def test_what_comes_back_counts_as_the_networks_that_were_trained(space, tmp_path):
    """NemotronH has two embedding matrices; in free mixes, key heads and windows are at their default."""
    run = searched(tmp_path / "run", space=space, params="1B..1.2B")
    networks, table = (
        export_trainings(str(run.path), tmp_path / "out"),
        tmp_path / "out/trainings.csv",
    )
    write_losses(table)
    if space == "layerwise":  # no program loads it: it goes out for flashnas train
        assert fn.load_architecture(tmp_path / "out/01.yaml").notation == networks[0].notation
    tokens, law = int(run.answer.next_trainings["tokens"]), fn.loss_model().law
    proposed = [observed(network, tokens, n) for n, network in enumerate(networks)]
    read, expected = (rows_of(rows, law) for rows in (own_rows(str(table)), proposed))
    np.testing.assert_allclose(read.x, expected.x, atol=1e-9)
    assert {*read.level} == {*expected.level}


@pytest.mark.parametrize("source", ["2048: 12x(a f)", "no_such_run"])
def test_what_is_no_run_is_refused(source, tmp_path):
    with pytest.raises(fn.FlashnasError, match=source.partition(":")[0]):
        export_trainings(source, tmp_path / "out")
