"""Recall after a full training, less that of the plain transformer of the same training. No torch.

    marks (0 to 1) = level of the group + b1 nothing + b2 state + b3 decay + b4 hybrid + residual

nothing  share of the questions that no mixer answers: 1 for a stack of FFNs, 0 with enough full attention.
state    share that only a recurrent state answers: exp(-share of full attention / s), without windows.
decay    the same for states that decay without a delta rule (Mamba, Mamba2, GLA).
hybrid   full attention beside states, complete where both have the share t of the mixers.

A publication is a random draw of b1 to b4, and a prediction is for a new one: a Gaussian posterior with one
scale in closed form. What no publication has (an operator, few mixers, many FFNs) widens it. The placement of
operators is left out. The effect of depth is unknown, because publications have 21 to 28 mixers.
"""

from __future__ import annotations

import csv
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashnas.architecture.notation import parse_operators
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.hints import did_you_mean
from flashnas.operators import OperatorSpec

SHIPPED = Path(__file__).with_name("data") / "published_recall.csv"
NEEDED, OPTIONAL = ("group", "source", "operators", "metric", "value"), ("table", "model", "note")
FULL_MARKS = {"recall_": 100.0, "ruler_": 1.0}  # of a value, by the start of its metric
CLEAR = 0.03                # rows further apart than this are a clear pair
CONTEXT, REACH = 2048, 0.9  # a window of w tokens finds sqrt(w / CONTEXT) of what is asked for, at most REACH
FEW = 2.0                   # n mixers do all but exp(-n / FEW) of what many do
Form = tuple[float, float, bool]  # s; t, where 0 leaves `hybrid` out; whether `decay` is there
FORMS: list[Form] = [(s, t, d) for s in (0.05, 0.1, 0.2) for t in (0.0, 0.15, 0.3) for d in (False, True)]
FORM: Form = (0.1, 0.3, True)  # what choose_form gives for the shipped rows
# Priors: standard deviations of b1 to b4, of the common value and between publications. The mean of b1 is the
# negative level of transformers, because a network that answers nothing has no marks; of the others it is 0.
COMMON, OWN = np.array([0.1, 0.15, 0.05, 0.05]), np.array([0.1, 0.05, 0.05, 0.05])
NOISE, SCALE_ROWS = 0.04, 10  # of a training; a scale of 1 has the weight of so many rows
LEVEL, LEVEL_SD = 0.4, 1.0    # of a group
# Standard deviations where publications are silent.
KIND_SD = 0.06                         # of a stack of one kind, divided by 1 + publications with that kind
DEPTH_SD = 0.03                        # per factor e below the mixers that publications have
FFN_SD, MAX_FFN = 0.2, 0.55            # per unit of the share of FFNs above this
STATES_SD = 0.04                       # per unit of the share of the states that are not of the first kind
WINDOW_SD, WINDOWS = 0.03, (64, 1024)  # per factor 2 outside these


@dataclass(frozen=True, kw_only=True)
class RecallRow:
    """One published network. operators: notation without a width; specs: parsed. value: marks, 0 to 1."""

    group: str
    source: str
    table: str = ""
    model: str = ""
    operators: str
    specs: tuple[OperatorSpec, ...]
    metric: str
    value: float
    note: str = ""
    place: str = ""


def read_recall(path: str | Path | None = None) -> list[RecallRow]:
    """The rows of a CSV; None: the shipped ones. Raises ConfigError with file, line, rule and value."""
    path = Path(path or SHIPPED)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or []
            lines = [(f"{path}:{reader.line_num}", line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if missing := [column for column in NEEDED if column not in columns]:
        raise ConfigError(f"{path}: column {missing[0]!r} is missing{did_you_mean(missing[0], columns)};"
                          f" needed: {', '.join(NEEDED)}")
    rows = [_row(place, line) for place, line in lines]
    if not rows:
        raise ConfigError(f"{path}: holds no row")
    counts = Counter(row.group for row in rows)
    if lone := next((row for row in rows if counts[row.group] == 1), None):
        raise ConfigError(f"{lone.place}: group {lone.group!r} must have at least 2 rows to compare; got 1")
    return rows


def _row(place: str, line: dict[str, Any]) -> RecallRow:
    text = {name: (line.get(name) or "").strip() for name in (*NEEDED, *OPTIONAL)}
    if empty := [name for name in NEEDED if not text[name]]:
        raise ConfigError(f"{place}: {empty[0]} must not be empty")
    full = next((marks for start, marks in FULL_MARKS.items() if text["metric"].startswith(start)), None)
    if full is None:
        raise ConfigError(f"{place}: metric must start with recall_ or ruler_; got {text['metric']!r}")
    number = text.pop("value")
    try:
        specs, value = parse_operators(text["operators"]), float(number)
    except FlashnasError as error:
        raise ConfigError(f"{place}: the notation does not express {text['operators']!r}: {error}") from None
    except ValueError:
        value = math.nan
    if not 0 <= value <= full:
        raise ConfigError(f"{place}: value must be a number from 0 to {full:g}; got {number!r}")
    return RecallRow(**text, specs=specs, value=value / full, place=place)


@functools.lru_cache(maxsize=16384)
def _composition(specs: tuple[OperatorSpec, ...]) -> tuple[list[float], dict[str, float], dict[str, float]]:
    """Numbers that decide; shares of kinds among mixers or FFNs; shares of states. `h` is half of each."""
    mixers = sum(spec.mixes_tokens for spec in specs)
    full = windows = reach = decay = outside = 0.0
    kinds: dict[str, float] = defaultdict(float)
    states: dict[str, float] = defaultdict(float)
    for spec in specs:
        share = 1 / (mixers if spec.mixes_tokens else len(specs) - mixers)
        kinds[spec.kind] += share
        attention = share * {"attention": 1.0, "attention and state space": 0.5}.get(spec.family, 0.0)
        if window := getattr(spec, "window_tokens", 0):
            windows += attention
            reach += attention * min(REACH, math.sqrt(window / CONTEXT))
            outside += attention * max(0.0, math.log2(WINDOWS[0] / window), math.log2(window / WINDOWS[1]))
        else:
            full += attention
        if spec.mixes_tokens and share > attention:
            states[spec.kind] += share - attention
            decay += (share - attention) * (spec.family != "delta rule")
    held = sum(states.values())
    lesser, ffn = held - max(states.values(), default=0.0), 1 - mixers / max(1, len(specs))
    numbers = [mixers, full, windows, reach / (windows or 1), held, decay / (held or 1), lesser, ffn, outside]
    return numbers, kinds, states


def _effects(numbers: np.ndarray, form: Form) -> np.ndarray:
    """nothing, state, decay and hybrid [N, 4] from the numbers of _composition [N, 9]."""
    mixers, full, windows, reach, held, decay = numbers.T[:6]
    missed = np.exp(-full / form[0]) * (1 - reach * (1 - np.exp(-windows / form[0])))
    deep, state = 1 - np.exp(-mixers / FEW), missed * (1 - np.exp(-held / form[0]))
    hybrid = np.minimum(1, np.minimum(full, held) / form[1]) if form[1] else 0 * full
    return deep[:, None] * np.c_[missed - state - 1, state, state * decay * form[2], hybrid] + [1, 0, 0, 0]


class RecallModel:
    """The posterior of b1 to b4 after published rows."""

    def __init__(self, rows: Sequence[RecallRow], form: Form) -> None:
        parts = [_composition(row.specs) for row in rows]
        numbers, value = np.array([part[0] for part in parts]), np.array([row.value for row in rows])
        self.form, self.mixers = form, int(numbers[:, 0].min())
        self.states = {frozenset(part[2]) for part in parts}
        having = {(kind, row.source) for row, part in zip(rows, parts, strict=True) for kind in part[1]}
        self.publications = Counter(kind for kind, _ in having)
        effects, level = _effects(numbers, form), value[numbers[:, 1] > 0.999]
        prior = np.array([-level.mean() if len(level) else -LEVEL, 0, 0, 0])
        covariance = (effects * COMMON**2 @ effects.T + _same(rows, "source") * (effects * OWN**2 @ effects.T)
                      + NOISE**2 * np.eye(len(rows)) + LEVEL_SD**2 * _same(rows, "group"))
        gaps = value - LEVEL - effects @ prior
        weights = np.linalg.solve(covariance, np.c_[gaps, effects])
        freedom = SCALE_ROWS + len(rows) - len({row.group for row in rows})
        self.scale = math.sqrt((SCALE_ROWS + gaps @ weights[:, 0]) / freedom)
        self.mean = prior + COMMON**2 * (effects.T @ weights[:, 0])
        self.covariance = np.diag(COMMON**2) - np.outer(COMMON, COMMON)**2 * (effects.T @ weights[:, 1:])

    @classmethod
    def fit(cls, rows: Sequence[RecallRow]) -> Self:
        """The model after these rows, of the shipped form."""
        return cls(rows, FORM)

    def predict(self, stacks: Sequence[Sequence[OperatorSpec]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N] and covariance [N, N] of the marks in a new publication, less those of its transformer.

        They hold the noise of one training of each stack, and that of the transformer's, which all share.
        """
        parts = [_composition(tuple(specs)) for specs in stacks]
        numbers = np.array([part[0] for part in parts]).reshape(len(parts), 9)
        mixers, (lesser, ffn, outside) = np.clip(numbers[:, 0], 1, self.mixers), numbers.T[6:]
        kinds = sorted({kind for part in parts for kind in part[1]})
        shares = np.array([[part[1].get(kind, 0.0) for kind in kinds] for part in parts])
        silent = np.c_[DEPTH_SD * np.log(self.mixers / mixers), FFN_SD * np.maximum(0, ffn - MAX_FFN),
                       STATES_SD * lesser, WINDOW_SD * outside,
                       shares * [KIND_SD / (1 + self.publications[kind]) for kind in kinds]]
        effects, noise = _effects(numbers, self.form), NOISE**2 * (1 + np.eye(len(parts)))
        heard = effects @ (self.covariance + np.diag(OWN**2)) @ effects.T + noise
        return effects @ self.mean, self.scale**2 * heard + silent @ silent.T

    def supported(self, specs: Sequence[OperatorSpec]) -> str:
        """What of a stack no publication has, in words; "" if nothing. Half of their least depth will do."""
        (mixers, *_, ffn, outside), kinds, states = _composition(tuple(specs))
        unknown = sorted(kind for kind in kinds if not self.publications[kind])
        mixed = len(states) > 1 and not unknown and frozenset(states) not in self.states
        return "; ".join(words for words, true in (
            (f"no publication has {' or '.join(unknown)}", unknown),
            (f"no publication has {' with '.join(sorted(states))}", mixed),
            (f"token mixers: {mixers}, of publications at least {self.mixers}", mixers < self.mixers / 2),
            (f"{ffn:.0%} of the operators are FFNs, of publications about half", ffn > MAX_FFN),
            (f"a window outside {WINDOWS[0]} to {WINDOWS[1]} tokens", outside)) if true)


def _same(rows: Sequence[RecallRow], name: str) -> np.ndarray:
    return np.array([[getattr(row, name) == getattr(other, name) for other in rows] for row in rows])


@functools.cache
def load_recall() -> RecallModel:
    """The model after the shipped rows."""
    return RecallModel.fit(read_recall())


def leave_one_out(rows: Sequence[RecallRow]) -> dict[str, Any]:
    """How well publications are predicted that are left out in turn, with the shipped form.

    pairs: clear ones; right: those in the published order, a tie counts half. Means over publications: share
    of right pairs, spearman, rmse of differences, coverage90 of their intervals, log_score of a difference.
    by_publication: the same of each. chosen: the same with the form chosen by the other publications only.
    """
    return {**_left_out(rows, FORM), "chosen": _left_out(rows, None)}


def choose_form(rows: Sequence[RecallRow]) -> Form:
    """The form with the best log score, on average over publications that are left out in turn."""
    return max(FORMS, key=lambda form: _left_out(rows, form)["log_score"])


def _left_out(rows: Sequence[RecallRow], form: Form | None) -> dict[str, Any]:
    scores = {}
    for source in dict.fromkeys(row.source for row in rows):
        others = [row for row in rows if row.source != source]
        model = RecallModel(others, form or choose_form(others))
        scores[source] = _score(model, [row for row in rows if row.source == source])
    sums = {name: sum(score[name] for score in scores.values()) for name in next(iter(scores.values()))}
    means = {name: total / len(scores) for name, total in sums.items() if name not in ("pairs", "right")}
    return {**sums, **means, "by_publication": scores}


def _score(model: RecallModel, rows: Sequence[RecallRow]) -> dict[str, float]:
    mean, covariance = model.predict([row.specs for row in rows])
    alike, variance = _same(rows, "group"), np.diag(covariance)
    gaps, told = (np.subtract.outer(x, x).round(9) for x in (np.array([row.value for row in rows]), mean))
    ranks = [(np.sign(differences) * alike).sum(axis=1) for differences in (gaps, told)]
    pairs = np.triu(alike, 1)
    error, variance = (gaps - told)[pairs], (np.add.outer(variance, variance) - 2 * covariance)[pairs]
    right = (0.5 + 0.5 * np.sign(gaps * told))[pairs & (np.abs(gaps) > CLEAR)]
    return {"pairs": len(right), "right": right.sum(), "share": right.mean(),
            "spearman": np.corrcoef(ranks)[0, 1], "rmse": np.sqrt(np.mean(error**2)),
            "coverage90": np.mean(np.abs(error) < 1.6449 * np.sqrt(variance)),
            "log_score": np.mean(-error**2 / variance - np.log(2 * np.pi * variance)) / 2}
