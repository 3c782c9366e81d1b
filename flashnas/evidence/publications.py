"""What each publication says of two mixes, and whether a user's own trainings contradict them. No
torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture.notation import parse_operators
from flashnas.base.errors import ArchitectureError
from flashnas.evidence.agreement import CLEAR_NATS, Composition, group_pairs, shared_pairs
from flashnas.evidence.expected import of_size
from flashnas.evidence.full_loss import FullLoss
from flashnas.evidence.left_out import COVERED, WITHIN_SDS, left_out_pairs
from flashnas.evidence.load import full_loss, own_rows, rows_of
from flashnas.evidence.trainings import NO_FFN, PublishedRow, comparable, composition, groups_of
from flashnas.operators import OPERATORS, OperatorSpec

MIN_CLEAR_PAIRS = 4  # from which on their order may contradict
MIN_OPERATORS = 24  # a pattern is repeated to a stack of at least so many
PARAMS, TOKENS = (
    1e9,
    1e11,
)  # without embeddings, and of a training: for which the model states a difference


def publications(rows: Sequence[PublishedRow], model: FullLoss) -> list[dict[str, Any]]:
    """The publications of the rows, those with the most rows first; JSON-ready.

    spread: the factor on what a publication has of its own, relative to the middle one; above 1 for
    gaps that others do not find. None for rows that the model was not fitted to.
    """
    by_source: dict[str, list[PublishedRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    return sorted(
        (
            {
                "source": source,
                "groups": list(dict.fromkeys(row.group for row in own)),
                "rows": len(own),
                "mixers": list(
                    dict.fromkeys(
                        spec.kind for row in own for spec in row.specs if spec.mixes_tokens
                    )
                ),
                "params": [min(row.params for row in own), max(row.params for row in own)],
                "tokens": [min(row.tokens for row in own), max(row.tokens for row in own)],
                "spread": model.spreads.reliability.get(source),
            }
            for source, own in by_source.items()
        ),
        key=lambda publication: -int(publication["rows"]),
    )


def two_mixes(
    one: str, other: str, rows: Sequence[PublishedRow], model: FullLoss
) -> dict[str, Any]:
    """What publications and the model say of two mixes of one size, such as `a f` and `m2 f`.

    Returns:
        JSON-ready. said: by each publication that trained both in one group, mean, least and most
        of its differences in nats per token, after the law of size and shape is taken out; below 0
        where the second mix has the lower loss. spread: standard deviation of their means; None for
            fewer than two. mean, sd:
        of the model, for a publication that nobody has seen (or the user's own), at PARAMS and
        TOKENS.

    Raises:
        ArchitectureError: a pattern is wrong.
    """
    stacks = [_stack(text) for text in (one, other)]
    parts = [composition(stack) for stack in stacks]
    slope = model.coefficients()["law"][0]
    gaps: dict[str, dict[str, np.ndarray]] = {}
    for group, places in comparable(rows).items():
        firsts, seconds = (
            [rows[place] for place in places if composition(rows[place].specs) == part]
            for part in parts
        )
        if firsts and seconds and parts[0] != parts[1]:
            both = [*firsts, *seconds]
            rest = (
                np.array([row.nats for row in both])
                - slope * rows_of(both, model.law).table.x[:, 0]
            )
            gaps.setdefault(both[0].source, {})[group] = np.subtract.outer(
                rest[len(firsts) :], rest[: len(firsts)]
            ).T
    said: list[dict[str, Any]] = []
    for source, by_group in gaps.items():
        values = np.concatenate([own.ravel() for own in by_group.values()])
        said.append(
            {
                "source": source,
                "groups": list(by_group),
                "pairs": len(values),
                "mean": float(values.mean()),
                "least": float(values.min()),
                "most": float(values.max()),
            }
        )
    mean, sd = model.predict(of_size(model, stacks, PARAMS, TOKENS, published=True)).difference(
        1, 0
    )
    spread = float(np.std([claim["mean"] for claim in said], ddof=1)) if len(said) > 1 else None
    return {"one": one, "other": other, "said": said, "spread": spread, "mean": mean, "sd": sd}


def _stack(text: str) -> tuple[OperatorSpec, ...]:
    specs = tuple(parse_operators(text))
    if not any(spec.mixes_tokens for spec in specs):
        raise ArchitectureError(
            f"a mix must have at least one token mixer, such as 'a f'; got {text!r}"
        )
    return specs * -(-MIN_OPERATORS // len(specs))


def disagreement(rows: Sequence[PublishedRow], model: FullLoss) -> dict[str, Any]:
    """How far publications disagree: clear pairs of mixes that two of them share, those that both
    order alike, and for each feature of the model its mean, the standard deviation of that, and the
    one between publications."""
    twos = [two for two in group_pairs(rows) if not two.one_publication]
    effects = {
        name: dict(zip(("mean", "sd", "between_publications"), values, strict=True))
        for name, values in model.coefficients().items()
        if values[2] > 0
    }
    return {
        "pairs": sum(two.pairs for two in twos),
        "right": sum(two.right for two in twos),
        "effects": effects,
    }


def contradiction(own: str | Path) -> str:
    """How a user's own trainings contradict the publications, in one line; empty if they do not.

    They do if fewer than half of at least MIN_CLEAR_PAIRS clear pairs have the predicted order, or
    if more than half of the differences lie outside the 90 % intervals. Raises ConfigError for a
    wrong file.
    """
    shipped = full_loss()
    pairs = left_out_pairs(own_rows(own), model_without=lambda _: shipped)
    clear = [pair for pair in pairs if pair.clear]
    right = sum(pair.right for pair in clear)
    inside = sum(
        abs(pair.published - pair.predicted) < WITHIN_SDS * (pair.sd or 0.0) for pair in pairs
    )
    words = []
    if len(clear) >= MIN_CLEAR_PAIRS and 2 * right < len(clear):
        words.append(
            f"{right:g} of {len(clear)} pairs that differ by more than {CLEAR_NATS:g} nats have the"
            " order that publications let expect"
        )
    if 2 * inside < len(pairs):
        words.append(f"{inside} of {len(pairs)} differences lie within the {COVERED:.0%} intervals")
    if not words:
        return ""
    return f"{own}: contradicts the publications: {' and '.join(words)}; it is used all the same"


# -- kinds of stacks -------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Stack:
    """A kind of network by its token mixers. ffn: with or without FFNs; None: either."""

    mixers: tuple[str, ...]
    ffn: bool | None = None

    def __str__(self) -> str:
        ffn = {True: " with FFNs", False: " without FFNs", None: ""}[self.ffn]
        alone = " alone" if len(self.mixers) == 1 and self.ffn is None else ""
        return f"{' + '.join(self.mixers)}{alone}{ffn}"

    def holds(self, stack: Composition) -> bool:
        kinds = [kind for kind, _ in stack]
        return stack_of(kinds).mixers == self.mixers and self.ffn in (None, NO_FFN not in kinds)


def stack_of(kinds: Iterable[str]) -> Stack:
    """The stack of these token mixers, in the order of the operators."""
    mixers = set(kinds) - {NO_FFN}
    return Stack(tuple(kind for kind in OPERATORS if kind in mixers))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one published group says of two stacks: the smallest and the largest gap of its rows, in
    nats, above 0 if the second stack has the lower loss."""

    group: str
    sources: tuple[str, ...]
    least: float
    most: float

    @property
    def direction(self) -> int:
        """1 if the second stack is better, -1 if the first, 0 if the rows of the group differ about
        it.
        """
        return 1 if self.least > 0 else -1 if self.most < 0 else 0


@dataclass(frozen=True, kw_only=True)
class ComparedStacks:
    """Two stacks: what each group says of them, and the gap in a run, or None."""

    first: Stack
    second: Stack
    claims: Sequence[Claim]
    run_gap: float | None

    @property
    def better(self) -> Stack | None:
        """The stack that all groups find better; None if they do not agree."""
        directions = {claim.direction for claim in self.claims}
        return self.second if directions == {1} else self.first if directions == {-1} else None

    @property
    def verdict(self) -> str:
        """Whether the groups agree with each other, in a few words."""
        if {1, -1} <= {claim.direction for claim in self.claims}:
            return "contradict each other"
        if self.better is None:
            return "depends on the mix"
        return "agree" if len(self.claims) > 1 else "one group only"

    @property
    def run_verdict(self) -> str:
        """Whether the run has the order that the groups have; empty if they or the run have
        none.
        """
        if self.run_gap is None or self.better is None:
            return ""
        if abs(self.run_gap) <= CLEAR_NATS:
            return "too close to tell"
        return (
            "as published"
            if (self.run_gap > 0) == (self.better == self.second)
            else "not as published"
        )


def claims(
    rows: Sequence[PublishedRow],
    pairs: Iterable[tuple[Stack, Stack]],
) -> dict[tuple[Stack, Stack], list[Claim]]:
    """What each group says of each two stacks. Those that differ in FFNs compare where they have
    the same mix."""
    gaps, places = shared_pairs(rows), groups_of(rows)
    claimed = {}
    for first, second in pairs:
        by_group: dict[str, list[float]] = defaultdict(list)
        for (left, right), group_gaps in gaps.items():
            if first.ffn is not None and {*left} ^ {*right} != {(NO_FFN, 1.0)}:
                continue
            forward, back = (
                first.holds(one) and second.holds(other)
                for one, other in ((left, right), (right, left))
            )
            for group, gap in group_gaps.items() if forward or back else ():
                by_group[group].append(gap if forward else -gap)
        claimed[first, second] = [
            Claim(
                group=group,
                sources=tuple(sorted({rows[place].source for place in places[group]} - {""})),
                least=min(values),
                most=max(values),
            )
            for group, values in by_group.items()
        ]
    return claimed
