"""The section of report.html that holds the operators of the finalists against published
trainings.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from flashnas.architecture.folding import parsed
from flashnas.evidence.agreement import CLEAR_NATS, Composition
from flashnas.evidence.publications import ComparedStacks, Stack, claims, stack_of
from flashnas.evidence.trainings import PublishedRow, composition, read_published
from flashnas.report.section import Section, render
from flashnas.runs.run import RecordedRun, rows

ARXIV = re.compile(r"\d{4}\.\d{4,5}")


class PublishedSection(Section):
    """For the token mixers of the finalists, two at a time: what each published group found, and
    this run.
    """

    title = "Do published trainings agree?"

    def html(self, run: RecordedRun) -> str:
        if not run.front:
            return ""
        front = [composition(finalist.architecture.operators) for finalist in run.front]
        comparisons, silent = compared(front, read_published(), _best_losses(run))
        sources = {
            source for each in comparisons for claim in each.claims for source in claim.sources
        }
        links = {
            source: f"https://arxiv.org/abs/{source}"
            for source in sources
            if ARXIV.fullmatch(source)
        }
        return render(
            "published.html", comparisons=comparisons, silent=silent, clear=CLEAR_NATS, links=links
        )


def compared(
    front: Sequence[Composition],
    published: Sequence[PublishedRow],
    losses: Mapping[Composition, float],
) -> tuple[list[ComparedStacks], list[str]]:
    """What published rows say about the stacks of a front: an entry for each two that a group
    compares, and the pairs, in words, that none compares. losses: the lowest that the run has of
    each composition, in nats."""
    questions = _questions(front)
    claimed = claims(published, itertools.chain(*questions.values()))
    comparisons = []
    for (first, second), own in claimed.items():
        lowest = [
            min((loss for each, loss in losses.items() if stack.holds(each)), default=math.nan)
            for stack in (first, second)
        ]
        gap = lowest[0] - lowest[1]  # not a number where one was not trained
        if own:
            comparisons.append(
                ComparedStacks(
                    first=first, second=second, claims=own, run_gap=None if math.isnan(gap) else gap
                )
            )
    return comparisons, [
        topic
        for topic, pairs in questions.items()
        if topic and not any(claimed[pair] for pair in pairs)
    ]


def _questions(front: Sequence[Composition]) -> dict[str, list[tuple[Stack, Stack]]]:
    """By topic: stacks to compare. A topic without words needs no answer."""
    stacks = sorted(
        {stack for each in front if (stack := stack_of([kind for kind, _ in each])).mixers},
        key=lambda stack: (len(stack.mixers), stack.mixers),
    )
    questions: dict[str, list[tuple[Stack, Stack]]] = {}
    kinds = stack_of([kind for stack in stacks for kind in stack.mixers]).mixers
    for first, second in itertools.combinations(kinds, 2):
        alone, other, both = stack_of([first]), stack_of([second]), stack_of([first, second])
        questions[f"{first} and {second}"] = [(alone, other), (alone, both), (other, both)]
    questions[""] = [
        *itertools.combinations(stacks, 2),
        *((Stack(stack.mixers, ffn=False), Stack(stack.mixers, ffn=True)) for stack in stacks),
    ]
    return questions


def _best_losses(run: RecordedRun) -> dict[Composition, float]:
    """The lowest loss of each composition that the run trained, baselines included."""
    best: dict[Composition, float] = {}
    for row in rows(run.trained.sort_values("loss")):
        if (network := parsed(row.notation)) is not None:
            best.setdefault(composition(network.operators), row.loss)
    return best


PUBLISHED = PublishedSection()
