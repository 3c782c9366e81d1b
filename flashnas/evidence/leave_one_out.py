"""Each published row foretold by a model that has not seen its publication, held against what was published."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, spearmanr

from flashnas.architecture import Architecture
from flashnas.evidence.fitting import rows_of
from flashnas.evidence.full_loss import NEW, PARTS, FullLoss, Table
from flashnas.evidence.law import annealed, fit_law, read_shapes
from flashnas.evidence.load import full_loss
from flashnas.evidence.trainings import CLEAR_NATS, PublishedRow, groups_of, read_published

MODELS = {"law": ("law",), "evidence": ("law", "mix"), "full": PARTS}
COVERED = 0.9        # of the intervals
SIZE_CLASSES = ("gem_50m", "gem_100m", "gem_500m", "gem_1b")
Short = Sequence[tuple[Architecture, float] | None]


@dataclass(frozen=True)
class ForetoldPair:
    """Two rows of a group: the published difference, the predicted one and its standard deviation (None: not stated),
    in nats; by the places of the rows."""

    one: int
    other: int
    published: float
    predicted: float
    sd: float | None

    @property
    def clear(self) -> bool:
        return abs(self.published) > CLEAR_NATS

    @property
    def right(self) -> float:
        """1 for the published order, 0.5 for a tie, 0 for the other order."""
        return 0.5 + 0.5 * float(np.sign(self.published * self.predicted))


def comparable(rows: Sequence[PublishedRow]) -> dict[str, list[int]]:
    """The places of the rows of each group. A group that repeats all rows of a smaller one, such as the same mixes at
    three sizes, is left out: it would count them again."""
    groups = groups_of(rows)
    known = {name: {(rows[place].source, rows[place].operators, rows[place].nats) for place in places}
             for name, places in groups.items()}
    return {name: places for name, places in groups.items()
            if not any(known[name] > known[other] for other in groups)}


def foretell(rows: Sequence[PublishedRow], parts: Sequence[str] = PARTS, short: Short | None = None, *,
             model_without: Callable[[str], FullLoss] | None = None) -> list[ForetoldPair]:
    """All pairs within groups, each predicted by a model without its publication.

    Args:
        rows: shipped ones or others.
        parts: of the model.
        short: the short training of each row; None where there is none.
        model_without: source -> the model; None: the shipped one without that publication.
    """
    found = []
    groups = comparable(rows)
    for source in dict.fromkeys(rows[places[0]].source for places in groups.values()):
        model = full_loss(without=source, parts=parts) if model_without is None else model_without(source)
        for places in groups.values():
            if rows[places[0]].source == source:
                found += _pairs(model, rows, places, None if short is None else [short[place] for place in places])
    return found


def _pairs(model: FullLoss, rows: Sequence[PublishedRow], places: Sequence[int],
           short: Short | None) -> list[ForetoldPair]:
    table = rows_of([rows[place] for place in places], model.law, response=model.response, proxies=short).table
    table = Table(table.x, table.shares, table.ffn, np.array([NEW] * len(table), object))
    prediction = model.predict(table)
    found = []
    for one, other in itertools.combinations(range(len(places)), 2):
        mean, sd = prediction.difference(one, other)
        found.append(ForetoldPair(places[one], places[other], rows[places[one]].nats - rows[places[other]].nats, mean,
                          float(np.hypot(sd, np.sqrt(2) * prediction.noise))))
    return found


def by_losses(rows: Sequence[PublishedRow], losses: np.ndarray) -> list[ForetoldPair]:
    """All pairs within groups of rows that have a loss [N]; NaN: none."""
    return [ForetoldPair(one, other, rows[one].nats - rows[other].nats, float(losses[one] - losses[other]), None)
            for places in comparable(rows).values() for one, other in itertools.combinations(places, 2)
            if np.isfinite(losses[[one, other]]).all()]


def summary(rows: Sequence[PublishedRow], pairs: Sequence[ForetoldPair]) -> dict[str, Any]:
    """Figures of pairs, JSON-ready.

    pairs, right, share: clear ones, those in the published order, and their share. Of all pairs: rmse_nats of the
    differences, coverage of the 90 % intervals, log_score. publications: the same means with equal weights of the
    publications, and of the groups within one. groups: pairs and right of each.
    """
    if not pairs:
        return {"pairs": 0, "right": 0, "share": None, "rmse_nats": None, "coverage": None, "log_score": None,
                "publications": {}, "groups": []}
    clear = [pair for pair in pairs if pair.clear]
    right = sum(pair.right for pair in clear)
    of_source = {source: [pair for pair in pairs if rows[pair.one].source == source]
                 for source in dict.fromkeys(rows[pair.one].source for pair in pairs)}
    each = {source: _figures(rows, some) for source, some in of_source.items()}
    equal = {name: _mean([figures[name] for figures in each.values()])
             for name in ("share", "spearman", "coverage", "log_score")}
    squares = _mean([figures["mean_square"] for figures in each.values()])
    pooled = _figures(rows, pairs)
    groups = [{"group": name, "pairs": len(some), "right": sum(pair.right for pair in some)}
              for name in dict.fromkeys(rows[pair.one].group for pair in pairs)
              for some in [[pair for pair in clear if rows[pair.one].group == name]]]
    return {"pairs": len(clear), "right": right, "share": right / len(clear) if clear else None,
            "rmse_nats": float(np.sqrt(np.mean([(pair.published - pair.predicted)**2 for pair in pairs]))),
            "coverage": pooled["coverage"], "log_score": pooled["log_score"],
            "publications": {**equal, "rmse_nats": None if squares is None else float(np.sqrt(squares)),
                             "each": {source: {name: figures[name] for name in (
                                 "pairs", "right", "share", "spearman", "rmse_nats", "coverage")}
                                 for source, figures in each.items()}},
            "groups": groups}


def _figures(rows: Sequence[PublishedRow], pairs: Sequence[ForetoldPair]) -> dict[str, Any]:
    clear = [pair for pair in pairs if pair.clear]
    groups = list(dict.fromkeys(rows[pair.one].group for pair in pairs))
    squares = [np.mean([(pair.published - pair.predicted)**2 for pair in pairs if rows[pair.one].group == name])
               for name in groups]
    sds = [pair.sd for pair in pairs if pair.sd is not None]
    errors = np.array([pair.published - pair.predicted for pair in pairs])
    ranks = [rank for name in groups if (rank := _spearman(rows, [p for p in pairs if rows[p.one].group == name]))
             is not None]
    bound = norm.ppf(0.5 + COVERED / 2)
    return {"pairs": len(clear), "right": sum(pair.right for pair in clear),
            "share": sum(pair.right for pair in clear) / len(clear) if clear else None,
            "spearman": _mean(ranks), "mean_square": float(np.mean(squares)),
            "rmse_nats": float(np.sqrt(np.mean(squares))),
            "coverage": float(np.mean(np.abs(errors) < bound * np.array(sds))) if sds else None,
            "log_score": float(np.mean(norm.logpdf(errors, 0, sds))) if sds else None}


def _spearman(rows: Sequence[PublishedRow], pairs: Sequence[ForetoldPair]) -> float | None:
    """Rank correlation of the rows of one group; None below three rows, or where the prediction is constant."""
    places = list(dict.fromkeys(place for pair in pairs for place in (pair.one, pair.other)))
    first = places[0]
    predicted = {first: 0.0, **{pair.other: -pair.predicted for pair in pairs if pair.one == first}}
    values = [predicted[place] for place in places]
    if len(places) < 3 or np.ptp(values) == 0:
        return None
    return float(spearmanr(values, [rows[place].nats for place in places])[0])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def leave_one_out(rows: Sequence[PublishedRow] | None = None, short: Short | None = None) -> dict[str, Any]:
    """`summary` of each of MODELS over the rows; None: the shipped ones."""
    rows = read_published() if rows is None else rows
    return {name: summary(rows, foretell(rows, parts, short)) for name, parts in MODELS.items()}


def all_models(rows: Sequence[PublishedRow], losses: np.ndarray, short: Short | None) -> dict[str, list[ForetoldPair]]:
    """All pairs as the short loss orders them, and as each of MODELS foretells them without their publication.

    Args:
        rows: published ones.
        losses: [N] of the short trainings; NaN where there is none.
        short: the same with their networks, for `full`; None if the model cannot read losses of such trainings.
    """
    return {"short": by_losses(rows, losses), **{name: foretell(rows, parts, short) for name, parts in MODELS.items()}}


def in_common(models: Mapping[str, Sequence[ForetoldPair]]) -> dict[str, list[ForetoldPair]]:
    """Of each model the pairs that all models have."""
    places = set.intersection(*({(pair.one, pair.other) for pair in pairs} for pairs in models.values()))
    return {name: [pair for pair in pairs if (pair.one, pair.other) in places] for name, pairs in models.items()}


def shapes_left_out() -> dict[str, Any]:
    """The law fitted without a size class orders the shapes of that class: clear pairs of equal tokens, and those in
    the published order."""
    shapes = annealed(read_shapes())
    found = {}
    for size in SIZE_CLASSES:
        law = fit_law([row for row in shapes if not row.group.startswith(f"{size}_")])
        pairs = right = 0
        for group in dict.fromkeys(row.group for row in shapes if row.group.startswith(f"{size}_")):
            some = [row for row in shapes if row.group == group]
            losses = law.loss(np.array([row.params for row in some]), np.array([row.tokens for row in some]),
                              np.array([row.width for row in some]))
            for one, other in itertools.combinations(range(len(some)), 2):
                gap = some[one].loss - some[other].loss
                if abs(gap) > CLEAR_NATS:
                    pairs, right = pairs + 1, right + (gap * (losses[one] - losses[other]) > 0)
        found[size] = {"pairs": pairs, "right": int(right)}
    total = {name: sum(each[name] for each in found.values()) for name in ("pairs", "right")}
    return {**total, "share": total["right"] / total["pairs"], "classes": found}
