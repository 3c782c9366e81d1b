"""The shipped evidence, the model that `experiments/evidence/fit.py` fitted to it, and what it expects
of a full training of one network, beside the transformer of its size. No torch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.notation import parse_operators
from flashnas.base.errors import ConfigError
from flashnas.base.text import shown
from flashnas.loss.composition import Law, Rows, Table, outside_support
from flashnas.loss.experts import log_granularity
from flashnas.loss.mix import Mix, bodies, body_sizes, mix_of, stacks
from flashnas.loss.model import FullLoss, Spreads
from flashnas.loss.own import as_own, own_rows, with_own
from flashnas.loss.recall import FORM, RecallModel
from flashnas.loss.recall import SHIPPED as RECALL
from flashnas.observations.losses import (
    DATA,
    ObservedLoss,
    as_published,
    full_network,
    full_width,
    nearest_width,
    pairs_of_nested_groups,
)
from flashnas.observations.read_losses import EXPERTS, SHIPPED
from flashnas.operators import OperatorSpec

SHAPES = DATA / "published_shapes.csv"
FFN_SHARES = DATA / "published_ffn_share.csv"
FITTED = Path(__file__).parent / "data" / "fitted.json"


def digest(path: Path) -> str:
    """16 hex digits of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digests() -> dict[str, str]:
    """Of the shipped files that the model is fitted to."""
    paths = (SHIPPED, SHAPES, FFN_SHARES, EXPERTS, RECALL)
    return {path.name: digest(path) for path in paths}


@functools.cache
def fitted() -> dict[str, Any]:
    """The shipped constants."""
    return dict(json.loads(FITTED.read_text(encoding="utf-8")))


@functools.cache
def load_recall() -> RecallModel:
    """The shipped model, which experiments/evidence/fit.py fitted."""
    found = fitted()["recall"]
    return RecallModel(
        form=FORM,
        kinds=frozenset(found["publications"]),
        publications=found["publications"],
        mixers=found["mixers"],
        states=set(map(frozenset, found["states"])),
        mean=np.array(found["mean"]),
        covariance=np.array(found["covariance"]),
        scale=found["scale"],
    )


def shipped_rows() -> Rows:
    """The published rows as the model sees them; nothing is parsed."""
    columns = fitted()["rows"]
    text = ("publication", "level")
    return Rows(
        noise=np.full(len(columns["ffn"]), np.nan),
        **{
            name: np.array(values, object if name in text else float)
            for name, values in columns.items()
        },
    )


def rows_of(trainings: Sequence[ObservedLoss], law: Law) -> Rows:
    """Published trainings as the model sees them, without the smaller ones of nested groups."""
    smaller = {small for small, _ in pairs_of_nested_groups(trainings)}
    rows = [row for row in trainings if row.group not in smaller]
    widths = [full_width(row) for row in rows]
    built = bodies(
        [
            row.network or full_network(row, nearest_width(width))
            for row, width in zip(rows, widths, strict=True)
        ]
    )
    sizes = body_sizes(built)
    for size, row, width in zip(sizes, rows, widths, strict=True):
        if row.network is None:
            counted = (row.active or row.params) - width * row.vocab
            size[:2] *= counted / size[1 if row.active else 0]
    table = Table.of(
        law,
        mix_of(
            stacks([row.specs for row in rows]),
            published=np.array([row.network is None for row in rows], bool),
            unknown=np.array([row.qk_norm == "unknown" for row in rows], bool),
        ),
        sizes,
        widths,
        np.array([row.tokens for row in rows]),
        [row.source for row in rows],
        log_fine=log_granularity(built),
    )
    return Rows(
        **vars(table),
        nats=np.array([row.nats for row in rows]),
        level=np.array([row.level or row.group for row in rows], object),
        noise=np.array([np.nan if row.noise is None else row.noise for row in rows]),
    )


def loss_model(
    own: str | Path | Sequence[ObservedLoss] | None = None,
    *,
    published: bool = True,
) -> FullLoss:
    """The model of the loss after a full training.

    Args:
        own: a CSV of the user's own trainings (`read_published`), or the trainings themselves;
            predictions are then for the user's publication.
        published: False: no published row counts. The spreads and the law of size and shape stay as
            they were fitted, so that there are intervals.

    Returns:
        FullLoss: `predict_networks` gives means and covariances of networks.

    Raises:
        ConfigError: an argument is wrong, or the file; with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> pure, hybrid = map(fn.Architecture.parse, ("2048: 12x(m2 f)", "2048: 2x(5x(m2 f) a f)"))
        >>> prediction = fn.loss_model().predict_networks([pure, hybrid], tokens=1e11)
        >>> mean, sd = prediction.difference(1, 0)    # the hybrid less the pure stack, nats per token
        >>> mean < 0, 0 < sd < 0.1
        (True, True)
    """
    if not (
        own is None
        or isinstance(own, str | Path)
        or (isinstance(own, Sequence) and all(isinstance(row, ObservedLoss) for row in own))
    ):
        raise ConfigError(
            "loss_model.own must be the path of a CSV file, or a list of ObservedLoss;"
            f" got {shown(own)}"
        )
    shipped = shipped_model(published=published)
    if own is None:
        return shipped
    rows = own_rows(own) if isinstance(own, str | Path) else as_own(own)
    return with_own(shipped, rows_of(rows, shipped.law)) if rows else shipped


@functools.cache
def shipped_model(without: str = "", *, published: bool = True) -> FullLoss:
    """The model of shipped rows alone. without: a publication, by its source, that it has not seen."""
    constants, rows = fitted(), shipped_rows()
    spreads = Spreads(**constants["folds"].get(without, constants["spreads"]))
    law = Law(**constants["law"])
    if without:
        rows = rows.take(np.flatnonzero(rows.publication != without))
    if published:
        return FullLoss(rows, spreads, law)
    slope = fitted()["coefficients"]["law"]
    spreads = dataclasses.replace(spreads, common={**spreads.common, "law": slope["sd"]})
    return FullLoss(rows.take(np.arange(0)), spreads, law, slope=slope["mean"])


# -- what is expected of one network ---------------------------------------------------------------

# a block of the transformer to which networks are compared: the best one
PLAIN = parse_operators("a(qk_norm=true) f")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of one network after a full training, in nats per token.

    full_loss: up to a constant of the text and the tokenizer. full_loss_difference, full_loss_sd:
    the same less that of the transformer with QK-norm (PLAIN, repeated) with as many parameters without
    embeddings as a token uses of the network, at the best ratio of width to depth;
    full_loss_of_shape: what of that difference the network's own ratio makes. recall, recall_sd:
    marks from 0 to 1, less those of that transformer. outside: what of the network no two
    publications have trained, in words.
    """

    train_tokens: float
    full_loss: float
    full_loss_difference: float
    full_loss_sd: float
    full_loss_of_shape: float
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
    model = loss_model(own)
    return expected_of(network, tokens, model, load_recall(), model.table([network], tokens))


def expected_of(
    network: Architecture,
    tokens: float,
    model: FullLoss,
    recall_model: RecallModel,
    table: Table,
) -> Expected:
    """The same by these models; table: the full training as `model` sees it."""
    body = bodies([network])
    active = float(body_sizes(body)[0, 1])
    table = Table.joined(table, of_size(model, [PLAIN], active, tokens))
    prediction = model.predict(table)
    difference, sd = prediction.difference(0, 1)
    recall, covariance = recall_model.predict(body)
    words = recall_model.supported(network.operators)
    return Expected(
        train_tokens=float(tokens),
        full_loss=float(prediction.mean[0]),
        full_loss_difference=difference,
        full_loss_sd=sd,
        full_loss_of_shape=model.parts_of(table, 0, 1)["size"],
        recall=float(recall[0]),
        recall_sd=float(np.sqrt(covariance[0, 0])),
        outside=(*outside_support(network, tokens), *([f"for recall: {words}"] if words else ())),
    )


def of_size(
    model: FullLoss,
    operators: Sequence[tuple[OperatorSpec, ...]],
    active: float,
    tokens: float,
    *,
    published: bool = False,
) -> Table:
    """Stacks of one active size, each at the best shape by the law: what differs is their mix.

    Args:
        operators: operator lists, of any number of repeats. Widths follow from `active`, as real
            numbers.
        published: attention and windows at their defaults are those of publications.
    """
    width = (active * np.exp(model.law.r0) / 12) ** (1 / 3)
    mix, sizes, log_fine = _stacks_of(tuple(operators), nearest_width(width), published)
    total, used, ffn = sizes.T
    return Table.of(
        model.law,
        mix,
        np.stack(np.broadcast_arrays(active * total / used, active, ffn), axis=-1),
        width,
        tokens,
        model.publication,
        log_fine=log_fine,
    )


@functools.lru_cache(maxsize=256)  # PLAIN is compared with each network
def _stacks_of(
    operators: tuple[tuple[OperatorSpec, ...], ...], hidden: int, published: bool
) -> tuple[Mix, np.ndarray, np.ndarray]:
    """Mixes, sizes and granularities of operator lists at a width."""
    built = stacks(
        [as_published(each, hidden) if published else each for each in operators], hidden
    )
    return mix_of(stacks(operators), published=published), body_sizes(built), log_granularity(built)
