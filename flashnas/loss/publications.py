"""What each publication is, and says of two mixes. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.architecture.notation import parse_operators
from flashnas.base.errors import ArchitectureError
from flashnas.loss.load import of_size, rows_of
from flashnas.loss.model import FullLoss
from flashnas.observations.losses import (
    ObservedLoss,
    groups_without_repeats,
    normed,
    qk_norm_of,
)
from flashnas.operators import OperatorSpec

NO_FFN = "no ffn"  # of a composition
MIN_OPERATORS = 24  # a pattern is repeated to a stack of at least so many
# without embeddings, and of a training: for which the model states a difference
PARAMS, TOKENS = 1e9, 1e11


def facts_of_publications(rows: Sequence[ObservedLoss], model: FullLoss) -> list[dict[str, Any]]:
    """The publications of the rows, those with the most rows first; JSON-ready.

    params, tokens: least and most. spread: the factor on what a publication has of its own, relative
    to the middle one; above 1 for gaps that others do not find. None for rows that the model was not
    fitted to.
    """
    by_source: dict[str, list[ObservedLoss]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    found = [
        {
            "source": source,
            "rows": len(own),
            "mixers": list(
                dict.fromkeys(spec.kind for row in own for spec in row.specs if spec.mixes_tokens)
            ),
            **{
                name: [each(getattr(row, name) for row in own) for each in (min, max)]
                for name in ("params", "tokens")
            },
            "spread": model.spreads.reliability.get(source),
        }
        for source, own in by_source.items()
    ]
    return sorted(found, key=lambda publication: -publication["rows"])


def compare_mixes(
    one: str, other: str, rows: Sequence[ObservedLoss], model: FullLoss
) -> dict[str, Any]:
    """What publications and the model say of two mixes of one size, such as `a f` and `m2 f`.

    Returns:
        JSON-ready. said: of each publication that trained both in one group the pairs, the mean of
        their differences in nats per token, after the law of size and shape is taken out, below 0
        where the second mix has the lower loss, and qk_norm: whether its attention normalises queries
        and keys (yes, no, unknown; empty: there is none). Where one of the mixes does, attention
        counts by that, too. mean, sd: of the model, for a publication that nobody
        has seen (or the user's own), at PARAMS and TOKENS.

    Raises:
        ArchitectureError: a pattern is wrong.
    """
    stacks = [_stack(text) for text in (one, other)]
    slope = model.coefficients()["law"][0]
    traits = any(normed(spec) for stack in stacks for spec in stack)
    kinds = [composition(stack, traits=traits) for stack in stacks]
    gaps: dict[str, list[float]] = {}
    states: dict[str, set[str]] = {}
    for members in groups_without_repeats(rows).values():
        group = [rows[index] for index in members]
        x = rows_of(group, model.law).x
        nats = np.array([row.nats for row in group]) - slope * x[:, 0] - x[:, 1]
        mixes = [composition(row.specs, traits=traits) for row in group]
        first, second = ([mix == kind for mix in mixes] for kind in kinds)
        if any(first) and any(second) and kinds[0] != kinds[1]:
            source = group[0].source
            differences = np.subtract.outer(nats[second], nats[first])
            gaps.setdefault(source, []).extend(differences.ravel())
            of_pairs = [
                row for row, *either in zip(group, first, second, strict=True) if any(either)
            ]
            states.setdefault(source, set()).update(map(qk_norm_of, of_pairs))
    said = [
        {
            "source": source,
            "pairs": len(values),
            "mean": float(np.mean(values)),
            "qk_norm": " and ".join(sorted(states[source] - {""})),
        }
        for source, values in gaps.items()
    ]
    table = of_size(model, stacks, PARAMS, TOKENS, published=True)
    mean, sd = model.predict(table).difference(1, 0)
    return {"one": one, "other": other, "said": said, "mean": mean, "sd": sd}


def composition(
    specs: Sequence[OperatorSpec], *, traits: bool = False
) -> tuple[tuple[str, float], ...]:
    """The share of each token mixer in rounded quarters, and whether a stack has FFNs.

    Two publications share a pair where both have a row of the one and of the other composition.
    traits: attention with QK-norm is a mixer of its own.
    """
    mixers = Counter(
        spec.kind + " with QK-norm" * (traits and normed(spec))
        for spec in specs
        if spec.mixes_tokens
    )
    total = mixers.total()
    shares = {kind: round(4 * count / total) / 4 for kind, count in mixers.items()} if total else {}
    without = [] if any(not spec.mixes_tokens for spec in specs) else [(NO_FFN, 1.0)]
    return (*sorted(shares.items()), *without)


def _stack(text: str) -> tuple[OperatorSpec, ...]:
    specs = tuple(parse_operators(text))
    if not any(spec.mixes_tokens for spec in specs):
        raise ArchitectureError(
            f"a mix must have at least one token mixer, such as 'a f'; got {text!r}"
        )
    return specs * -(-MIN_OPERATORS // len(specs))
