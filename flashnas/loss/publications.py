"""What each publication says of two mixes, and whether a user's own trainings contradict them. No
torch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture.notation import parse_operators
from flashnas.base.errors import ArchitectureError
from flashnas.loss.composition import Table
from flashnas.loss.load import loss_model, of_size, rows_of
from flashnas.loss.model import FullLoss
from flashnas.loss.own import own_rows
from flashnas.loss.prediction import COVERED, WITHIN_SDS, Prediction, reliabilities
from flashnas.observations.losses import ObservedLoss, normed, qk_norm_of
from flashnas.observations.read_losses import composition, groups_without_repeats
from flashnas.operators import OperatorSpec

CLEAR_NATS = 0.02  # a pair with a larger published gap is clear
MIN_CLEAR_PAIRS = 4  # from which on their order may contradict
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
        nats = np.array([row.nats for row in group]) - slope * rows_of(group, model.law).x[:, 0]
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


def _stack(text: str) -> tuple[OperatorSpec, ...]:
    specs = tuple(parse_operators(text))
    if not any(spec.mixes_tokens for spec in specs):
        raise ArchitectureError(
            f"a mix must have at least one token mixer, such as 'a f'; got {text!r}"
        )
    return specs * -(-MIN_OPERATORS // len(specs))


# -- a user's own trainings, as the publications predict them --------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two rows of a group, by their indices: the published loss of the first less that of the
    second, the predicted one, its standard deviation with that of the trainings, in nats, and the
    logarithm of the density of the published one (None: not stated). A tie counts half."""

    one: int
    other: int
    published: float
    predicted: float
    sd: float | None = None
    log_score: float | None = None

    @property
    def clear(self) -> bool:
        return abs(self.published) > CLEAR_NATS

    @property
    def right(self) -> float:
        """1 for the published order, 0.5 for a tie, 0 for the other order."""
        return 0.5 + 0.5 * float(np.sign(self.published) * np.sign(self.predicted))


def predicted_pairs(
    rows: Sequence[ObservedLoss], model_of: Callable[[str], FullLoss]
) -> list[Pair]:
    """All pairs within groups, as those of a publication that nobody has seen.

    Args:
        model_of: source of a group -> the model that predicts it.
    """
    pairs = []
    for members in groups_without_repeats(rows).values():
        model = model_of(rows[members[0]].source)
        prediction = model.predict(as_new_publication(model, [rows[index] for index in members]))
        for one, other in itertools.combinations(range(len(members)), 2):
            mean = float(prediction.mean[one] - prediction.mean[other])
            published = rows[members[one]].nats - rows[members[other]].nats
            sd = float(prediction.sd_to(other, trainings=2)[one])
            score = log_density(prediction, published, one, other, trainings=2)
            pairs.append(Pair(members[one], members[other], published, mean, sd, score))
    return pairs


def as_new_publication(model: FullLoss, rows: Sequence[ObservedLoss]) -> Table:
    """Rows of the publication that a model predicts for, as it sees them."""
    return dataclasses.replace(
        rows_of(rows, model.law), publication=np.full(len(rows), model.publication, object)
    )


def contradiction_of_own(own: str | Path) -> str:
    """How a user's own trainings contradict the publications, in one line; empty if they do not.

    They do if fewer than half of at least MIN_CLEAR_PAIRS clear pairs have the predicted order, or
    if more than half of the differences lie outside the 90 % intervals. Raises ConfigError for a
    wrong file.
    """
    shipped = loss_model()
    pairs = predicted_pairs(own_rows(own), lambda _: shipped)
    clear = [pair for pair in pairs if pair.clear]
    right = sum(pair.right for pair in clear)
    inside = sum(
        abs(pair.published - pair.predicted) < WITHIN_SDS * (pair.sd or 0.0) for pair in pairs
    )
    words = []
    if len(clear) >= MIN_CLEAR_PAIRS and 2 * right < len(clear):
        words.append(
            f"{right:g} of {len(clear)} pairs that differ by more than {CLEAR_NATS:g} nats have the"
            " order that publications predict"
        )
    if 2 * inside < len(pairs):
        words.append(f"{inside} of {len(pairs)} differences lie within the {COVERED:.0%} intervals")
    if not words:
        return ""
    return f"{own}: contradicts the publications: {' and '.join(words)}; it is used all the same"


def log_density(
    prediction: Prediction, difference: float, one: int, other: int, trainings: int = 0
) -> float:
    """Of a difference of two networks in nats, as of `Prediction.difference`."""
    shared, own = (part[one] for part in prediction.variances_to(other, trainings))
    values, weights = reliabilities(prediction.unseen)
    variances = shared + own * values**2
    error = difference - (prediction.mean[one] - prediction.mean[other])
    densities = np.exp(-0.5 * error**2 / variances) / np.sqrt(2 * np.pi * variances)
    return float(np.log(weights @ densities))
