"""The shipped evidence, and the model that was fitted to it."""

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
import pandas as pd

from flashnas.evidence.fitting import FFN_SHARES, fit_reliability, joined, rows_of
from flashnas.evidence.full_loss import FITTED, NEW, PARTS, FullLoss, Rows, Spreads, Table
from flashnas.evidence.law import SHAPES, Law
from flashnas.evidence.recall import SHIPPED as RECALL
from flashnas.evidence.trainings import SHIPPED, PublishedRow, read_published

OWN = "own trainings"   # the publication that a user's file is, whatever its column source says


@dataclass(frozen=True)
class Evidence:
    """The published rows, as they ship. Each has its `source` (an arXiv number) and the table that it is from.

    trainings: full trainings of mixes. shapes: transformers of many depths and widths. ffn_shares: transformers with
    more or less of their parameters in feed-forward layers. recall: what networks find again in their context.
    """

    trainings: pd.DataFrame
    shapes: pd.DataFrame
    ffn_shares: pd.DataFrame
    recall: pd.DataFrame


def load() -> Evidence:
    """All published rows that ship.

    Example:
        >>> import flashnas as fn
        >>> evidence = fn.evidence.load()
        >>> len(evidence.trainings) >= 164, (evidence.trainings.source != "").all().item()
        (True, True)
    """
    return Evidence(*(pd.read_csv(path, dtype={"source": str, "level": str, "note": str}, keep_default_na=True)
                      for path in (SHIPPED, SHAPES, FFN_SHARES, RECALL)))


def digest(path: Path) -> str:
    """16 hex digits of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digests() -> dict[str, str]:
    """Of the shipped files that the model is fitted to."""
    return {path.name: digest(path) for path in (SHIPPED, SHAPES, FFN_SHARES)}


@functools.cache
def fitted() -> dict[str, Any]:
    """The constants that ship: law, response of the proxy, spreads, those without each publication, rows as numbers."""
    return dict(json.loads(FITTED.read_text(encoding="utf-8")))


def shipped_rows() -> Rows:
    """The published rows as the model sees them, from the fitted constants: nothing is parsed."""
    rows = fitted()["rows"]
    table = Table(np.array(rows["x"]), np.array(rows["shares"]), np.array(rows["ffn"]),
                  np.array(rows["publication"], object))
    return Rows(table, np.array(rows["nats"]), np.array(rows["level"], object))


def full_loss(own: str | Path | None = None, *, without: str = "", parts: Sequence[str] = PARTS) -> FullLoss:
    """The model of the loss after a full training.

    Args:
        own: a CSV of the user's own trainings (`flashnas.evidence.trainings.read_published`). Predictions are then for
            the user's publication and no longer for a new one.
        without: a publication, by its source, that the model has not seen.
        parts: of `law`, `mix` and `beyond` (short trainings), those that it uses.

    Raises:
        ConfigError: the file is wrong; with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> networks = [fn.Architecture.parse(text) for text in ("2048: 12x(m2 f)", "2048: 5x(m2 f) a f 6x(m2 f)")]
        >>> prediction = fn.evidence.full_loss().predict_networks(networks, tokens=1e11)
        >>> mean, sd = prediction.difference(1, 0)    # the hybrid less the pure stack, nats per token
        >>> mean < 0, 0 < sd < 0.1
        (True, True)
    """
    if own is None:
        return _shipped(without, tuple(parts))
    constants, law = fitted(), Law(**fitted()["law"])
    rows = joined(shipped_rows(), rows_of(own_rows(own), law))
    spreads = fit_reliability(rows, Spreads(**constants[f"{_prefix(parts)}spreads"]), law, OWN)
    return FullLoss(rows, spreads, law, parts=parts, response=constants["response"], publication=OWN)


def own_rows(path: str | Path) -> list[PublishedRow]:
    """A user's trainings as one publication, OWN, whose groups differ from those of all others.

    Raises:
        ConfigError: the file is wrong; with file, line, rule and value.
    """
    return [dataclasses.replace(row, source=OWN, level=f"{OWN}: {row.level or row.group}")
            for row in read_published(path)]


def _prefix(parts: Sequence[str]) -> str:
    """Of the constants: the law alone has spreads of its own, because differences of mixes are noise to it."""
    return "law_" if tuple(parts) == ("law",) else ""


@functools.cache
def _shipped(without: str, parts: tuple[str, ...]) -> FullLoss:
    constants, rows = fitted(), shipped_rows()
    prefix = _prefix(parts)
    spreads = Spreads(**constants[f"{prefix}folds"].get(without, constants[f"{prefix}spreads"]))
    if without:
        rows = rows.part(np.flatnonzero(rows.table.publication != without))
    return FullLoss(rows, spreads, Law(**constants["law"]), response=constants["response"], parts=parts,
                    publication=NEW)


def recipe_of_response() -> str:
    """The digest of the recipe whose short losses the model can read."""
    return str(fitted()["recipe"])
