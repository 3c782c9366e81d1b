"""YAML with line numbers, and documents as dataclasses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml
from cases import cases
from offenders import every
from one_line import one_line

from flashnas.base import documents as yaml_module
from flashnas.base.documents import convert, make_loader, parse_yaml, read_yaml
from flashnas.base.errors import ArchitectureError, ConfigError, RunError

TEXT = """\
first: 1
second:
  inner: [a,
    b]
third:
  - x
  - {k: v}
"""


@pytest.fixture(autouse=True, params=["CSafeLoader", "SafeLoader"])
def both_parsers(request, monkeypatch):
    """libyaml, and PyYAML's own parser, which some systems have alone."""
    monkeypatch.setattr(yaml_module, "LOADER", make_loader(getattr(yaml, request.param)))


def test_entries_know_their_lines():
    data = parse_yaml(TEXT, "f.yaml")
    assert data == {"first": 1, "second": {"inner": ["a", "b"]}, "third": ["x", {"k": "v"}]}
    assert (data.place(), data.place("third"), data["second"].place("inner")) == (
        "f.yaml:1",
        "f.yaml:5",
        "f.yaml:3",
    )
    assert [data["second"]["inner"].place(i) for i in (0, 1, 2, None)] == [
        "f.yaml:3",
        "f.yaml:4",
    ] + ["f.yaml:3"] * 2
    assert data["third"].place(1) == data["third"][1].place("k") == "f.yaml:7"
    assert data.place("not there") == "f.yaml:1"


def test_numbers_and_booleans_are_those_of_yaml_1_2():
    numbers = "[1:2, 1e-3, 2.5E+3, .5, -3, 1_000, 0x1F, 017, 12e4567890123456, 1., -.inf, .nan, 190:20:30]"
    assert repr(parse_yaml(numbers)) == (
        "['1:2', 0.001, 2500.0, 0.5, -3, 1000, 31, '017', '12e4567890123456', 1.0, -inf, nan,"
        " '190:20:30']"
    )
    booleans = "[true, False, TRUE, on, Off, yes, NO, y, n]"
    assert repr(parse_yaml(booleans)) == ("[True, False, True, 'on', 'Off', 'yes', 'NO', 'y', 'n']")
    assert parse_yaml("{on: 1, no: 2}") == {"on": 1, "no": 2}


@every(case=cases("base", "wrong_tags"))
def test_a_value_that_does_not_fit_its_tag_is_one_line(case):
    text, words = case
    assert one_line(ConfigError, parse_yaml, text, "f.yaml").startswith(words)


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGED = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 10)
)


@every(text=[BOMB, MERGED])
def test_aliases_that_expand_to_too_much_are_refused(text):
    with pytest.raises(
        ConfigError, match=r"^f\.yaml: aliases expand its \d+ values to more than 100,000;"
    ):
        parse_yaml(text, "f.yaml")


def test_a_long_file_and_a_few_aliases_are_accepted(monkeypatch):
    monkeypatch.setattr("flashnas.base.documents.MAX_EXPANDED_NODES", 1000)
    assert len(parse_yaml("[" + "1, " * 1001 + "&a 2]")) == 1002
    data = parse_yaml("base: &base [1, 2]\nfirst: *base\nsecond: [*base, *base]\n")
    assert data["second"] == [data["first"]] * 2 == [[1, 2]] * 2


def test_own_keys_override_merged_ones():
    data = parse_yaml("base: &base {a: 1, b: 2}\nderived:\n  <<: *base\n  b: 3\n", "f.yaml")
    assert data["derived"] == {"a": 1, "b": 3}
    assert data["derived"].place("b") == "f.yaml:4"


@every(
    case=[
        *cases("base", "bad_yaml"),
        ("a: " + "9" * 5000, "f.yaml: not valid YAML: Exceeds the limit"),
        (
            "[" * 20000,
            (
                "f.yaml: must be nested at most 64 levels deep; got more",
                "f.yaml:1: not valid YAML: exceeded maximum nesting depth",
            ),
        ),
    ]
)
def test_bad_yaml_gets_its_line(case):
    text, message = case
    assert one_line(ConfigError, parse_yaml, text, "f.yaml").startswith(message)


def test_files_that_cannot_be_read(tmp_path):
    missing, binary, listed, empty = (
        tmp_path / name for name in ("missing", "binary", "listed", "empty")
    )
    binary.write_bytes(b"\xff\xfe\x00")
    listed.write_text("- 1\n")
    empty.write_text("")
    for path, message in (
        (missing, "cannot be read: No such file or directory"),
        (tmp_path, "must be a regular file; got a folder"),
        (binary, "cannot be read: not UTF-8 text"),
        (listed, ":1: the top level must be a mapping; got list"),
        (empty, ":1: the top level must be a mapping; got NoneType"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            read_yaml(path)


@dataclass(frozen=True, kw_only=True)
class Point:
    x: int

    def __post_init__(self):
        if self.x < 0:
            raise ValueError(f"x must be 0 or more; got {self.x}")
        if self.x > 9:
            raise ArchitectureError("too far")


@dataclass(frozen=True, kw_only=True)
class Record:
    name: str
    loss: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()
    points: list[Point] = field(default_factory=list)
    kind: Literal["a", "b"] = "a"
    size: int | Literal["max"] = 1
    more: Any = None


GOOD = {
    "name": "n",
    "loss": 1,
    "figures": {"a": 2},
    "curve": [[1, 2.5]],
    "points": [{"x": 1}],
    "new": 3,
}


def test_data_becomes_an_object():
    made = convert(GOOD, Record)
    assert made == Record(
        name="n", loss=1.0, figures={"a": 2.0}, curve=[(1.0, 2.5)], points=[Point(x=1)]
    )
    assert isinstance(made.loss, float)


@every(
    case=[
        *cases("base", "wrong_records"),
        ({"loss": 10**400}, "record.loss must be a finite number; got"),
    ]
)
def test_what_is_wrong_is_one_line(case):
    change, line = case
    message = one_line(
        RunError, convert, {**GOOD, **change}, Record, "f.jsonl:3", RunError, name="record"
    )
    assert message.startswith(f"f.jsonl:3: {line}")


def test_the_whole_may_be_wrong_and_unknown_keys_are_refused_where_the_schema_is_closed():
    for data, line in (
        ({}, "f: record needs the key 'name'"),
        ([1], "f: record must be a mapping; got [1]"),
        (None, "f: record must be a mapping; got None"),
    ):
        assert one_line(ConfigError, convert, data, Record, "f", name="record") == line
    with pytest.raises(
        ConfigError, match=r"^f: record has no key 'lost' \(did you mean 'loss'\?\); allowed: name"
    ):
        convert({"name": "n", "lost": 1}, Record, "f", name="record", closed=True)


def test_numbers_that_are_not_finite_may_be_allowed():
    assert convert({"a": float("inf")}, dict[str, float], finite=False) == {"a": float("inf")}


def test_the_line_of_a_yaml_entry_is_named():
    data = parse_yaml("name: n\nfigures:\n  a: 1\n  b: x\n", "f.yaml")
    with pytest.raises(ConfigError, match=r"^f.yaml:4: figures.b must be a number; got 'x'"):
        convert(data, Record)
    with pytest.raises(ConfigError, match=r"^f.yaml:1: the content needs the key 'name'"):
        convert(parse_yaml("loss: 1\n", "f.yaml"), Record)
