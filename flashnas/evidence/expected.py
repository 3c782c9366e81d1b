"""What is expected of a full training of one network, beside the plain transformer of its size. No
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.notation import parse_operators
from flashnas.evidence.composition import Table, body_sizes, effective, mix_of, outside_support
from flashnas.evidence.full_loss import FullLoss
from flashnas.evidence.load import full_loss, nearest_width
from flashnas.evidence.proxies import as_published
from flashnas.evidence.recall import RecallModel, load_recall
from flashnas.operators import OperatorSpec

PLAIN = parse_operators("a f")  # a block of the transformer to which networks are compared


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of one network after a full training, in nats per token.

    full_loss: up to a constant of the text and the tokenizer. full_loss_difference, full_loss_sd:
    the same less that of the plain transformer (`a f`, repeated) with as many parameters without
    embeddings, at the best ratio of width to depth. recall, recall_sd: marks from 0 to 1, less
    those of that transformer. outside: what of the network no two publications have trained, in
    words.
    """

    train_tokens: float
    full_loss: float
    full_loss_difference: float
    full_loss_sd: float
    recall: float
    recall_sd: float
    outside: tuple[str, ...]


def expected(network: Architecture, tokens: float, own: str | Path | None = None) -> Expected:
    """What is expected of a full training of a network, without any training.

    Args:
        own: a CSV of the user's own trainings; None: the shipped publications alone.

    Raises:
        ConfigError: the file of own trainings is wrong; with file, line, rule and value.

    Example:
        >>> from flashnas import Architecture
        >>> found = expected(Architecture.parse("2048: 12x(d f m2 f)"), 1e11)
        >>> found.full_loss_difference < 0 < found.full_loss_sd, found.recall < 0, found.outside
        (True, True, ())
    """
    return expected_of(network, tokens, full_loss(own), load_recall())


def expected_of(
    network: Architecture,
    tokens: float,
    model: FullLoss,
    recall_model: RecallModel,
    short: float = 0.0,
) -> Expected:
    """The same by these models. short: `FullLoss.short_effect` of the network, in nats."""
    params, active, _ = body_sizes(network.operators, network.hidden)
    prediction = model.predict(
        Table.joined(
            model.table([network], tokens, [short]),
            of_size(model, [PLAIN], float(effective(params, active)), tokens),
        )
    )
    difference, sd = prediction.difference(0, 1)
    recall, covariance = recall_model.predict([network.operators])
    words = recall_model.supported(network.operators)
    return Expected(
        train_tokens=float(tokens),
        full_loss=float(prediction.mean[0]),
        full_loss_difference=difference,
        full_loss_sd=sd,
        recall=float(recall[0]),
        recall_sd=float(np.sqrt(covariance[0, 0])),
        outside=(*outside_support(network, tokens), *([f"for recall: {words}"] if words else ())),
    )


def of_size(
    model: FullLoss,
    stacks: Sequence[tuple[OperatorSpec, ...]],
    params: float,
    tokens: float,
    *,
    published: bool = False,
) -> Table:
    """Stacks of one size, each at the best shape by the law: what differs is their mix.

    Args:
        stacks: operator lists, of any number of repeats. Widths follow from `params`, as real
            numbers.
        published: attention and windows at their defaults are those of publications.
    """
    width, sizes = (params * np.exp(model.law.r0) / 12) ** (1 / 3), []
    built = nearest_width(width)
    for stack in stacks:
        total, active, ffn = body_sizes(as_published(stack, built) if published else stack, built)
        sizes.append((params, params * active / total, ffn))
    return Table.of(
        model.law,
        [mix_of(stack, published=published) for stack in stacks],
        sizes,
        width,
        tokens,
        model.publication,
        counted=np.full(len(stacks), params),
    )
