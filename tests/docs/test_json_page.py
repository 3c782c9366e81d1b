"""docs/commands.md: its tables of JSON have the keys that a search prints; the script that it names
answers."""

import dataclasses
import functools
import re
from types import SimpleNamespace
from typing import get_args, get_type_hints, is_typeddict

import pytest
from documents import ROOT, TEXTS

import flashnas as fn
from flashnas.exporting.configuration import export_configuration
from flashnas.run_folder.recorded_answer import Answer
from flashnas.trials.trial import EXPECTED_FIGURES, FRONT_FIGURES, METRICS_ON_FRONT

PAGE = TEXTS["docs/commands.md"].partition("## The JSON of a search")[2]
QUESTION = {"space": "granite", "params": "20M..60M", "vocab": 16_000, "workload": "decode-1k"}


def keys(heading):
    """Of the table below a heading."""
    table = PAGE.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert all(len(row) == 3 and all(map(str.strip, row)) for row in rows), "each has a unit"
    return {key for row in rows for key in re.findall(r"`(\w+)`", row[0])}


def typed(kind):
    """The keys of a typed dictionary, and of those in it."""
    if is_typeddict(kind):
        for name, inner in get_type_hints(kind).items():
            yield name
            yield from typed(inner)
    for inner in get_args(kind):
        yield from typed(inner)


def test_each_key_of_the_json_has_a_row_and_a_unit(tmp_path):
    run = fn.search(**QUESTION, budgets={"latency_ms": 1500}, out=tmp_path / "run")
    assert keys("The object") == {*run.summary}
    figures = {*METRICS_ON_FRONT, *EXPECTED_FIGURES, *FRONT_FIGURES}
    assert keys("A network") == figures | {"config", "notation", "hash", "missed", "runs_in"}
    assert {*run.summary["recommended"]} <= keys("A network")
    assert keys("The answer") == {field.name for field in dataclasses.fields(Answer)}
    assert {*run.summary["answer"]} == keys("The answer")
    hints = get_type_hints(Answer)
    inner = {name for kind in hints.values() for name in typed(kind)}
    assert all(f"`{name}`" in PAGE for name in inner)
    named = {name for line in PAGE.splitlines() for name in re.findall(r"`(\w+)`", line)}
    assert keys("Compared") <= inner <= named


def script():
    names = {"__name__": "worth_training"}
    exec((ROOT / "examples" / "worth_training.py").read_text(), names)
    return names


def test_the_script_asks_of_a_config_json(tmp_path):
    export_configuration("512: 8x(a f)", tmp_path, dtype="float32", tokenizer=None)
    names = script()
    names["fn"] = SimpleNamespace(search=functools.partial(fn.search, **QUESTION))
    ask = functools.partial(names["worth_training"], str(tmp_path / "config.json"))
    assert ask(hours=1e-3)[0] == "no"
    answer, why = ask(hours=1e6)
    assert answer == "not known"
    assert "publications have at least 21" in why


@pytest.mark.parametrize(
    ("outside", "likely_ms", "fastest_ms", "answer", "why"),
    [
        ("", 90.0, 80.0, "no", "as good with probability 0.9, and faster: likely"),
        ("", None, 80.0, "not known", "as good with probability 0.62, and faster: fastest"),
        ("", None, 100.0, "yes", "no network of the space that is as good is faster"),
    ],
)
def test_the_script_says_yes_no_or_not_known(outside, likely_ms, fastest_ms, answer, why):
    good = {
        "model": {"train_hours": 500.0, "latency_ms": 100.0, "outside": outside},
        "chosen": {"latency_ms": fastest_ms, "probability": 0.62, "notation": "fastest"},
        "likely": likely_ms and {"latency_ms": likely_ms, "notation": "likely"},
    }
    run = SimpleNamespace(answer=SimpleNamespace(as_good=good))
    names = script()
    names["fn"] = SimpleNamespace(search=lambda **_: run)
    assert names["worth_training"]("config.json", 499) == ("no", "its training takes 500 hours")
    assert names["worth_training"]("config.json", 501) == (answer, why)
