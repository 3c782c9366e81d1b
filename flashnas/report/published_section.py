"""The section of report.html that holds the operators of the finalists against published trainings."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flashnas.architecture.folding import parsed
from flashnas.evidence.agreement import CLEAR_NATS, Composition, shared_pairs
from flashnas.evidence.trainings import PublishedRow, composition, groups_of, read_published
from flashnas.report.palette import operator_order
from flashnas.report.section import Section, render
from flashnas.runs.run import RecordedRun, rows

ARXIV = re.compile(r"\d{4}\.\d{4,5}")
NO_FFN = "no ffn"  # of a composition


@dataclass(frozen=True, order=True)
class Stack:
    """A kind of network by its token mixers. ffn: with or without FFNs; None: either."""

    mixers: tuple[str, ...]
    ffn: bool | None = None

    def __str__(self) -> str:
        ffn = {True: " with FFNs", False: " without FFNs", None: ""}[self.ffn]
        return " + ".join(self.mixers) + ("" if len(self.mixers) > 1 or self.ffn is not None
                                          else " alone") + ffn

    def holds(self, found: Composition) -> bool:
        return _mixers(found) == self.mixers and self.ffn in (None, _has_ffn(found))


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one published group says: the smallest and the largest gap of its rows, in nats, above 0 if the
    second stack has the lower loss."""

    group: str
    sources: tuple[str, ...]
    least: float
    most: float

    @property
    def direction(self) -> int:
        """1 if the second stack is better, -1 if the first, 0 if the rows of the group differ about it."""
        return 1 if self.least > 0 else -1 if self.most < 0 else 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """Two stacks that the front has: what each group says, and the gap in this run, or None."""

    first: Stack
    second: Stack
    said: tuple[Said, ...]
    run_gap: float | None

    @property
    def better(self) -> Stack | None:
        """The stack that all groups find better; None if they do not agree."""
        directions = {each.direction for each in self.said}
        return self.second if directions == {1} else self.first if directions == {-1} else None

    @property
    def verdict(self) -> str:
        """Whether the groups agree with each other, in a few words."""
        if {1, -1} <= {each.direction for each in self.said}:
            return "contradict each other"
        if self.better is None:
            return "depends on the mix"
        return "agree" if len(self.said) > 1 else "one group only"

    @property
    def run_verdict(self) -> str:
        """Whether the run has the order that the groups have; empty if they or the run have none."""
        if self.run_gap is None or self.better is None:
            return ""
        if abs(self.run_gap) <= CLEAR_NATS:
            return "too close to tell"
        return "as published" if (self.run_gap > 0) == (self.better == self.second) else "not as published"


class PublishedSection(Section):
    """For the token mixers of the finalists, two at a time: what each published group found, and this run."""

    title = "Do published trainings agree?"

    def html(self, run: RecordedRun) -> str:
        if not run.front:
            return ""
        known = read_published()
        front = [composition(finalist.architecture.operators) for finalist in run.front]
        lines, silent = compared(front, known, _best_losses(run))
        sources = {source for line in lines for said in line.said for source in said.sources}
        links = {source: f"https://arxiv.org/abs/{source}" for source in sources if ARXIV.fullmatch(source)}
        return render("published.html", lines=lines, silent=silent, clear=CLEAR_NATS, links=links)


def compared(front: Sequence[Composition], known: Sequence[PublishedRow],
             losses: Mapping[Composition, float]) -> tuple[list[Line], list[str]]:
    """What published rows say about the stacks of a front.

    Args:
        front: the compositions of the finalists.
        known: published rows.
        losses: the lowest loss that the run has of each composition, in nats.

    Returns:
        One line for each two stacks that a group compares, and the pairs, in words, that none compares.
    """
    gaps = shared_pairs(known)
    sources = {group: tuple(sorted({known[place].source for place in places} - {""}))
               for group, places in groups_of(known).items()}
    lines, silent = [], []
    for topic, stacks in _questions(front).items():
        found = [line for pair in stacks if (line := _line(*pair, gaps, sources, losses)).said]
        lines += [line for line in found if line not in lines]
        if not found and topic:
            silent.append(topic)
    return lines, silent


def _questions(front: Sequence[Composition]) -> dict[str, list[tuple[Stack, Stack]]]:
    """By topic: stacks to compare. A topic without words needs no answer."""
    kinds = sorted({mixer for found in front for mixer in _mixers(found)}, key=operator_order)
    asked: dict[str, list[tuple[Stack, Stack]]] = {}
    for one, other in itertools.combinations(kinds, 2):
        both = Stack(tuple(sorted((one, other), key=operator_order)))
        asked[f"{one} and {other}"] = [(Stack((one,)), Stack((other,))), (Stack((one,)), both),
                                       (Stack((other,)), both)]
    stacks = sorted({Stack(_mixers(found)) for found in front if _mixers(found)},
                    key=lambda stack: (len(stack.mixers), [operator_order(kind) for kind in stack.mixers]))
    asked[""] = [*itertools.combinations(stacks, 2),
                 *((Stack(stack.mixers, ffn=False), Stack(stack.mixers, ffn=True)) for stack in stacks)]
    return asked


def _line(first: Stack, second: Stack, gaps: Mapping[tuple[Composition, Composition], Mapping[str, float]],
          sources: Mapping[str, tuple[str, ...]], losses: Mapping[Composition, float]) -> Line:
    found: dict[str, list[float]] = defaultdict(list)
    for (one, other), by_group in gaps.items():
        same_mix = first.ffn is None or _shares(one) == _shares(other)
        for left, right, sign in ((one, other, 1), (other, one, -1)):
            if first.holds(left) and second.holds(right) and same_mix:
                for group, gap in by_group.items():
                    found[group].append(sign * gap)
    said = tuple(Said(group=group, sources=sources[group], least=min(values), most=max(values))
                 for group, values in found.items())
    lowest = [min((loss for found, loss in losses.items() if stack.holds(found)), default=None)
              for stack in (first, second)]
    return Line(first=first, second=second, said=said,
                run_gap=None if lowest[0] is None or lowest[1] is None else lowest[0] - lowest[1])


def _best_losses(run: RecordedRun) -> dict[Composition, float]:
    """The lowest loss of each composition that the run trained, baselines included."""
    found: dict[Composition, float] = {}
    for row in rows(run.trained):
        network = parsed(row.notation)
        if network is not None and row.loss == row.loss:
            key = composition(network.operators)
            found[key] = min(row.loss, found.get(key, row.loss))
    return found


def _shares(found: Composition) -> Iterable[tuple[str, float]]:
    return [part for part in found if part[0] != NO_FFN]


def _mixers(found: Composition) -> tuple[str, ...]:
    return tuple(sorted((kind for kind, _ in found if kind != NO_FFN), key=operator_order))


def _has_ffn(found: Composition) -> bool:
    return all(kind != NO_FFN for kind, _ in found)


PUBLISHED = PublishedSection()
