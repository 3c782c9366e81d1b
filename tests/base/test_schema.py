"""convert: files to dataclasses, and the one line for what is wrong in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from offenders import every
from one_line import one_line

from flashnas.base.documents import convert, parse_yaml
from flashnas.base.errors import ArchitectureError, BenchError, ConfigError


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
        ({"loss": "low"}, "record.loss must be a number or null; got 'low'"),
        ({"loss": True}, "record.loss must be a number or null; got True"),
        ({"name": None}, "record.name must be text; got None"),
        ({"figures": {"good": 1, "bad": "x"}}, "record.figures.bad must be a number; got 'x'"),
        (
            {"curve": [[1, 2], [1, 2, 3]]},
            "record.curve[1] must be a list of length 2; got [1, 2, 3]",
        ),
        ({"curve": [[1, "x"]]}, "record.curve[0][1] must be a number; got 'x'"),
        ({"curve": 3}, "record.curve must be a list; got 3"),
        ({"points": [{"y": 1}]}, "record.points[0] needs the key 'x'"),
        ({"points": [{"x": -1}]}, "record.points[0]: x must be 0 or more; got -1"),
        ({"points": [{"x": 10}]}, "too far"),
        ({"kind": "aa"}, "record.kind must be one of a, b; got 'aa' (did you mean 'a'?)"),
        ({"figures": {1: 2.0}}, "record.figures must have names as keys; got {1: 2.0}"),
        ({"loss": float("nan")}, "record.loss must be a finite number; got nan"),
        (
            {"more": [{"deep": float("inf")}]},
            "record.more[0].deep must be a finite number; got inf",
        ),
        ({"loss": 10**400}, "record.loss must be a number in range; got"),
    ]
)
def test_what_is_wrong_is_one_line(case):
    change, line = case
    message = one_line(
        BenchError, convert, {**GOOD, **change}, Record, "f.jsonl:3", BenchError, name="record"
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
