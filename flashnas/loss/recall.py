"""Recall after a full training, less that of the plain transformer of the same training. No torch.

    marks (0 to 1) = level of the group + b1 nothing + b2 state + b3 decay + b4 hybrid + residual

- nothing: share of the questions that no mixer answers; 1 for a stack of FFNs, 0 with enough full
  attention.
- state: share that only a recurrent state answers; exp(-share of full attention / s) without
  windows.
- decay: the same for states that decay without a delta rule (Mamba, Mamba2, GLA).
- hybrid: full attention beside states, complete where both have the share t of the mixers.

A publication is a random draw of b1 to b4: a Gaussian posterior with one scale in closed form. What
no publication has (few mixers, many FFNs) widens it; an operator that none has adds no recall, too.
The placement of operators is left out.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flashnas.architecture.networks import Networks
from flashnas.base.errors import ConfigError
from flashnas.base.text import counted, plain_number
from flashnas.loss.mathematics import ATTENTION, DELTA_RULE, MATHEMATICS
from flashnas.loss.mix import stacks
from flashnas.observations.losses import DATA
from flashnas.observations.read_losses import read_rows, specs_of
from flashnas.operators import OperatorSpec

SHIPPED = DATA / "published_recall.csv"
NEEDED = ("group", "source", "operators", "metric", "value")
FULL_MARKS = {"recall_": 100.0, "ruler_": 1.0}  # of a value, by the start of its metric
CONTEXT, REACH = 2048, 0.9  # a window of w tokens finds sqrt(w / CONTEXT), at most REACH
FEW = 2.0  # n mixers do all but exp(-n / FEW) of what many do
Form = tuple[float, float, bool]  # s; t, where 0 leaves `hybrid` out; whether `decay` is there
FORM: Form = (0.1, 0.3, True)  # the shipped rows choose it: experiments/evidence/recall.py
# Priors: standard deviations of b1 to b4, of the common value and between publications. The mean of
# b1 is the negative level of transformers, because a network that answers nothing has no marks; of
# the others it is 0.
COMMON = np.array([0.1, 0.15, 0.05, 0.05])
OWN = np.array([0.1, 0.05, 0.05, 0.05])
NOISE, SCALE_ROWS = 0.04, 10  # of a training; a scale of 1 has the weight of so many rows
LEVEL, LEVEL_SD = 0.4, 1.0  # of a group
# Standard deviations where publications are silent.
KIND_SD = 0.06  # of a stack of one kind, divided by 1 + publications with that kind
DEPTH_SD = 0.03  # per factor e below the mixers that publications have
FFN_SD, MAX_FFN = 0.2, 0.55  # per unit of the share of FFNs above this
STATES_SD = 0.04  # per unit of the share of the states that are not of the first kind
WINDOW_SD, WINDOWS = 0.03, (64, 1024)  # per factor 2 outside these


@dataclass(frozen=True)
class RecallRow:
    """One published network. operators: notation without a width; specs: parsed. value: marks, 0 to
    1.
    """

    group: str
    source: str
    operators: str
    specs: tuple[OperatorSpec, ...]
    value: float


def read_recall(path: str | Path | None = None) -> list[RecallRow]:
    """The rows of a CSV; None: the shipped ones. Raises ConfigError with file, line, rule and
    value.
    """
    return [_row(place, line) for place, line in read_rows(Path(path or SHIPPED), NEEDED)]


def _row(place: str, line: dict[str, str]) -> RecallRow:
    specs = specs_of(place, line["operators"])
    metric = line["metric"]
    full = next((marks for start, marks in FULL_MARKS.items() if metric.startswith(start)), None)
    if full is None:
        raise ConfigError(f"{place}: metric must start with recall_ or ruler_; got {metric!r}")
    try:
        value = plain_number(line["value"])
    except ValueError:
        value = math.nan
    if not 0 <= value <= full:
        raise ConfigError(
            f"{place}: value must be a number from 0 to {full:g}; got {line['value']!r}"
        )
    return RecallRow(line["group"], line["source"], line["operators"], specs, value / full)


class Mixture(NamedTuple):
    """What of N stacks decides; arrays [N].

    mixers: their number. full, windows, held: shares of the mixers that are full attention, attention
    to a window, and states. reach: what an average window finds. decay: share of the states without
    a delta rule. lesser: share of the mixers that are states of other kinds than the first. ffn:
    share of the operators. outside: how far windows lie outside of WINDOWS, in factors of 2. states:
    of each kind of state its share of the mixers.
    """

    mixers: np.ndarray
    full: np.ndarray
    windows: np.ndarray
    reach: np.ndarray
    held: np.ndarray
    decay: np.ndarray
    lesser: np.ndarray
    ffn: np.ndarray
    outside: np.ndarray
    states: dict[str, np.ndarray]


def mixture_of(stacks: Networks, published: frozenset[str]) -> Mixture:
    """The mixtures of stacks. published: kinds that publications have; others find nothing again."""
    specs = [spec for spec, _ in stacks.pairs]
    kinds = np.array([spec.kind for spec in specs], object)
    mixes, known, attends = (
        np.array(column, bool)
        for column in (
            [spec.mixes_tokens for spec in specs],
            [spec.kind in published for spec in specs],
            [MATHEMATICS.get(spec.kind) == ATTENTION for spec in specs],
        )
    )
    window = np.array([spec.window_tokens for spec in specs], float)
    windowed, wide = known & attends & (window > 0), np.maximum(window, 1.0)
    outside = np.maximum(0.0, np.maximum(np.log2(WINDOWS[0] / wide), np.log2(wide / WINDOWS[1])))
    mixers = stacks.totals_of(mixes)
    total = np.maximum(mixers, 1.0)
    windows = stacks.totals_of(windowed)
    recurs = known & mixes & ~attends
    held = stacks.totals_of(recurs)
    fading = recurs & np.array([MATHEMATICS.get(kind) != DELTA_RULE for kind in kinds], bool)
    states = {kind: stacks.totals_of(kinds == kind) for kind in dict.fromkeys(kinds[recurs])}
    return Mixture(
        mixers=mixers,
        full=stacks.totals_of(known & attends & ~windowed) / total,
        windows=windows / total,
        reach=stacks.totals_of(windowed * np.minimum(REACH, np.sqrt(window / CONTEXT)))
        / np.maximum(windows, 1.0),
        held=held / total,
        decay=stacks.totals_of(fading) / np.maximum(held, 1.0),
        lesser=(held - np.max(list(states.values()), axis=0, initial=0.0)) / total,
        ffn=1 - mixers / np.maximum(stacks.totals(lambda *_: 1.0), 1.0),
        outside=stacks.totals_of(windowed * outside) / total,
        states={kind: count / total for kind, count in states.items()},
    )


def _effects(stacks: Mixture, form: Form) -> np.ndarray:
    """nothing, state, decay and hybrid [N, 4]."""
    missed = np.exp(-stacks.full / form[0])
    missed *= 1 - stacks.reach * (1 - np.exp(-stacks.windows / form[0]))
    state = missed * (1 - np.exp(-stacks.held / form[0]))
    hybrid = 0 * stacks.full
    if form[1]:
        hybrid = np.minimum(1, np.minimum(stacks.full, stacks.held) / form[1])
    deep = 1 - np.exp(-stacks.mixers / FEW)
    effects = np.c_[missed - state - 1, state, state * stacks.decay * form[2], hybrid]
    return deep[:, None] * effects + [1, 0, 0, 0]


class RecallModel:
    """The posterior of b1 to b4 after published rows."""

    def __init__(self, rows: Sequence[RecallRow], form: Form = FORM) -> None:
        # a model without some publication still likens what that one alone has to its family
        self.kinds = _shipped_kinds() | {spec.kind for row in rows for spec in row.specs}
        mixture = mixture_of(stacks([row.specs for row in rows]), self.kinds)
        value = np.array([row.value for row in rows])
        self.form = form
        self.mixers = int(mixture.mixers.min())
        self.states = {_held(mixture, index) for index in range(len(rows))}
        having = {(spec.kind, row.source) for row in rows for spec in row.specs}
        self.publications = Counter(kind for kind, _ in having)
        effects = _effects(mixture, form)
        level = value[mixture.full > 0.999]
        prior = np.array([-level.mean() if len(level) else -LEVEL, 0, 0, 0])
        covariance = (
            effects * COMMON**2 @ effects.T
            + same(rows, "source") * (effects * OWN**2 @ effects.T)
            + NOISE**2 * np.eye(len(rows))
            + LEVEL_SD**2 * same(rows, "group")
        )
        gaps = value - LEVEL - effects @ prior
        weights = np.linalg.solve(covariance, np.c_[gaps, effects])
        freedom = SCALE_ROWS + len(rows) - len({row.group for row in rows})
        self.scale = math.sqrt((SCALE_ROWS + gaps @ weights[:, 0]) / freedom)
        self.mean = prior + COMMON**2 * (effects.T @ weights[:, 0])
        self.covariance = np.diag(COMMON**2) - np.outer(COMMON, COMMON) ** 2 * (
            effects.T @ weights[:, 1:]
        )

    def expected(self, stacks: Networks) -> np.ndarray:
        """Mean [N] of the marks in a new publication, less those of its transformer."""
        return _effects(mixture_of(stacks, self.kinds), self.form) @ self.mean

    def predict(self, stacks: Networks) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the covariance [N, N], with the noise of one training of each stack and of the
        transformer."""
        columns = mixture_of(stacks, self.kinds)
        specs = [spec for spec, _ in stacks.pairs]
        kinds = np.array([spec.kind for spec in specs], object)
        ffns = stacks.totals(lambda spec, _: not spec.mixes_tokens)
        among = {spec.kind: columns.mixers if spec.mixes_tokens else ffns for spec in specs}
        silent = np.stack(
            [
                DEPTH_SD * np.log(self.mixers / np.clip(columns.mixers, 1, self.mixers)),
                FFN_SD * np.maximum(0, columns.ffn - MAX_FFN),
                STATES_SD * columns.lesser,
                WINDOW_SD * columns.outside,
                *(
                    KIND_SD
                    / (1 + self.publications[kind])
                    * stacks.totals_of(kinds == kind)
                    / np.maximum(1.0, count)
                    for kind, count in among.items()
                ),
            ],
            axis=-1,
        )
        effects = _effects(columns, self.form)
        noise = NOISE**2 * (1 + np.eye(len(stacks)))
        heard = effects @ (self.covariance + np.diag(OWN**2)) @ effects.T + noise
        return effects @ self.mean, self.scale**2 * heard + silent @ silent.T

    def supported(self, specs: Sequence[OperatorSpec]) -> str:
        """What of a stack no publication has, in words; "" if nothing. Half of their least depth
        will do.
        """
        stack = mixture_of(stacks([specs]), self.kinds)
        states = _held(stack, 0)
        unknown = sorted({spec.kind for spec in specs if not self.publications[spec.kind]})
        words = []
        if unknown:
            words.append(f"no publication has {' or '.join(unknown)}")
        elif len(states) > 1 and states not in self.states:
            words.append(f"no publication has {' with '.join(sorted(states))}")
        if stack.mixers < self.mixers / 2:
            words.append(
                f"it has {counted(int(stack.mixers[0]), 'token mixer')};"
                f" publications have at least {self.mixers}"
            )
        if stack.ffn > MAX_FFN:
            words.append(
                f"{stack.ffn[0]:.0%} of the operators are FFNs, of publications about half"
            )
        if stack.outside:
            words.append(f"a window outside {WINDOWS[0]} to {WINDOWS[1]} tokens")
        return "; ".join(words)


def _held(stacks: Mixture, index: int) -> frozenset[str]:
    """The kinds of states of one stack."""
    return frozenset(kind for kind, share in stacks.states.items() if share[index])


def same(rows: Sequence[RecallRow], name: str) -> np.ndarray:
    return np.array(
        [[getattr(row, name) == getattr(other, name) for other in rows] for row in rows]
    )


@functools.cache
def _shipped_kinds() -> frozenset[str]:
    return frozenset(spec.kind for row in read_recall() for spec in row.specs)


@functools.cache
def load_recall() -> RecallModel:
    """The model after the shipped rows."""
    return RecallModel(read_recall())
