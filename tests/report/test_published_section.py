"""What published trainings say of the operators of a front: lines, verdicts, links, and the section
in the page.
"""

import re

import pytest

from flashnas.architecture import parse_operators
from flashnas.evidence.trainings import PublishedRow, composition
from flashnas.report.published_section import PUBLISHED, compared
from flashnas.runs.run import RecordedRun


def row(operators, nats, group, source="2405.21060"):
    return PublishedRow(
        group=group,
        operators=operators,
        specs=parse_operators(operators),
        params=350e6,
        nats=nats,
        source=source,
    )


def of(*operators):
    return [composition(parse_operators(each)) for each in operators]


KNOWN = [
    row("a f", 1.0, "g"),
    row("d f", 0.9, "g"),
    row("a f d f", 0.8, "g"),
    row("m2 f", 0.7, "g"),
    row("m2", 0.6, "g"),
    row("a f", 2.0, "h", "2511.18890"),
    row("d f", 2.1, "h", "2511.18890"),
    row("a f d f", 1.9, "h", "2511.18890"),
    row("m2", 1.5, "h", "2511.18890"),
]


def by_stacks(found):
    return {(str(line.first), str(line.second)): line for line in found}


def test_each_pair_of_operators_has_what_each_group_says_of_it():
    lines, silent = compared(of("a f d f"), KNOWN, {})
    found = by_stacks(lines)
    assert set(found) == {("a alone", "d alone"), ("a alone", "a + d"), ("d alone", "a + d")}
    against = found["a alone", "d alone"]
    assert [(claim.group, claim.sources) for claim in against.claims] == [
        ("g", ("2405.21060",)),
        ("h", ("2511.18890",)),
    ]
    assert [claim.least for claim in against.claims] == pytest.approx([0.1, -0.1])
    assert against.verdict == "contradict each other"
    assert against.better is None
    mixed = found["a alone", "a + d"]
    assert [claim.least for claim in mixed.claims] == pytest.approx([0.2, 0.1])
    assert (mixed.verdict, str(mixed.better)) == ("agree", "a + d")
    assert silent == []


def test_forms_of_one_group_are_a_range_and_ffns_are_compared():
    found = by_stacks(compared(of("a f", "m2 f"), KNOWN, {})[0])
    assert [(claim.least, claim.most) for claim in found["a alone", "m2 alone"].claims] == [
        (pytest.approx(0.3), pytest.approx(0.4)),
        (pytest.approx(0.5), pytest.approx(0.5)),
    ]
    ffn = found["m2 without FFNs", "m2 with FFNs"]
    assert ffn.claims[0].least == pytest.approx(-0.1)
    assert (ffn.verdict, str(ffn.better)) == ("one group only", "m2 without FFNs")


@pytest.mark.parametrize(
    ("hybrid", "verdict"),
    [(2.0, "as published"), (4.0, "not as published"), (2.99, "too close to tell"), (None, "")],
)
def test_the_run_is_held_against_the_groups(hybrid, verdict):
    a, mix = of("a f", "a f d f")
    losses = {a: 3.0} if hybrid is None else {a: 3.0, mix: hybrid}
    line = by_stacks(compared([mix], KNOWN, losses)[0])["a alone", "a + d"]
    assert line.run_verdict == verdict
    assert line.run_gap == (None if hybrid is None else pytest.approx(3.0 - hybrid))


def test_what_nobody_published_is_said():
    lines, silent = compared(of("a f", "h f", "d f"), KNOWN, {})
    assert {frozenset(words.split(" and ")) for words in silent} == {
        frozenset("ah"),
        frozenset("dh"),
    }
    assert ("a alone", "d alone") in by_stacks(lines)


def test_the_section_has_its_sources(build_run):
    run = RecordedRun.load(build_run())
    section = PUBLISHED.html(run)
    assert '<a href="https://arxiv.org/abs/2511.18890">arXiv 2511.18890</a>' in section
    kinds = {
        spec.kind
        for finalist in run.front
        for spec in finalist.architecture.operators
        if spec.mixes_tokens
    }
    named = set(re.findall(r'<td class="text">(\w+) alone</td>', section))
    assert named
    assert named <= kinds
    assert "as published" in section


def test_a_front_that_nobody_trained_has_no_line():
    lines, silent = compared(of("h f", "kda f"), KNOWN, {})
    assert lines == []
    assert silent in (["h and kda"], ["kda and h"])
