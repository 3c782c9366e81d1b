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
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flashnas.base.errors import ConfigError
from flashnas.base.text import counted, plain_number
from flashnas.loss.mathematics import (
    ATTENTION,
    DELTA_RULE,
    MATHEMATICS,
)
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
    """What of a stack decides. mixers: their number. full, windows, held: shares of the mixers that
    are full attention, attention to a window, and states; `h` is half of attention and of a state.
    reach: what an average window finds. decay: share of the states without a delta rule. lesser:
    share of the mixers that are states of other kinds than the first. ffn: share of the operators.
    outside: how far windows lie outside of WINDOWS, in factors of 2."""

    mixers: Any
    full: Any
    windows: Any
    reach: Any
    held: Any
    decay: Any
    lesser: Any
    ffn: Any
    outside: Any


@functools.lru_cache(maxsize=16384)
def _mixture(
    specs: tuple[OperatorSpec, ...], published: frozenset[str]
) -> tuple[Mixture, dict[str, float], dict[str, float]]:
    """The mixture of a stack; shares of kinds among mixers or FFNs; shares of states.

    Args:
        published: kinds that publications have; others find nothing again.
    """
    mixers = sum(spec.mixes_tokens for spec in specs)
    full = windows = reach = decay = outside = 0.0
    kinds: dict[str, float] = defaultdict(float)
    states: dict[str, float] = defaultdict(float)
    for spec in specs:
        share = 1 / (mixers if spec.mixes_tokens else len(specs) - mixers)
        kinds[spec.kind] += share
        if spec.kind not in published:
            continue
        mathematics = MATHEMATICS.get(spec.kind, "")
        attention = share * (mathematics == ATTENTION)
        if window := spec.window_tokens:
            windows += attention
            reach += attention * min(REACH, math.sqrt(window / CONTEXT))
            outside += attention * max(
                0.0, math.log2(WINDOWS[0] / window), math.log2(window / WINDOWS[1])
            )
        else:
            full += attention
        if spec.mixes_tokens and share > attention:
            states[spec.kind] += share - attention
            decay += (share - attention) * (mathematics != DELTA_RULE)
    held = sum(states.values())
    mixture = Mixture(
        mixers=mixers,
        full=full,
        windows=windows,
        reach=reach / (windows or 1),
        held=held,
        decay=decay / (held or 1),
        lesser=held - max(states.values(), default=0.0),
        ffn=1 - mixers / max(1, len(specs)),
        outside=outside,
    )
    return mixture, kinds, states


def _columns(parts: Sequence[tuple[Mixture, Any, Any]]) -> Mixture:
    """One mixture of arrays [N]."""
    return Mixture(*np.array([part[0] for part in parts]).reshape(-1, len(Mixture._fields)).T)


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
        parts = [_mixture(row.specs, self.kinds) for row in rows]
        stacks = _columns(parts)
        value = np.array([row.value for row in rows])
        self.form = form
        self.mixers = int(stacks.mixers.min())
        self.states = {frozenset(part[2]) for part in parts}
        having = {
            (kind, row.source) for row, part in zip(rows, parts, strict=True) for kind in part[1]
        }
        self.publications = Counter(kind for kind, _ in having)
        effects = _effects(stacks, form)
        level = value[stacks.full > 0.999]
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

    def predict(self, stacks: Sequence[Sequence[OperatorSpec]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N] and covariance [N, N] of the marks in a new publication, less those of its
        transformer.

        They hold the noise of one training of each stack and of the transformer.
        """
        parts = [_mixture(tuple(specs), self.kinds) for specs in stacks]
        columns = _columns(parts)
        kinds = sorted({kind for part in parts for kind in part[1]})
        shares = np.array([[part[1].get(kind, 0.0) for kind in kinds] for part in parts])
        silent = np.c_[
            DEPTH_SD * np.log(self.mixers / np.clip(columns.mixers, 1, self.mixers)),
            FFN_SD * np.maximum(0, columns.ffn - MAX_FFN),
            STATES_SD * columns.lesser,
            WINDOW_SD * columns.outside,
            shares * [KIND_SD / (1 + self.publications[kind]) for kind in kinds],
        ]
        effects = _effects(columns, self.form)
        noise = NOISE**2 * (1 + np.eye(len(parts)))
        heard = effects @ (self.covariance + np.diag(OWN**2)) @ effects.T + noise
        return effects @ self.mean, self.scale**2 * heard + silent @ silent.T

    def supported(self, specs: Sequence[OperatorSpec]) -> str:
        """What of a stack no publication has, in words; "" if nothing. Half of their least depth
        will do.
        """
        stack, kinds, states = _mixture(tuple(specs), self.kinds)
        unknown = sorted(kind for kind in kinds if not self.publications[kind])
        words = []
        if unknown:
            words.append(f"no publication has {' or '.join(unknown)}")
        elif len(states) > 1 and frozenset(states) not in self.states:
            words.append(f"no publication has {' with '.join(sorted(states))}")
        if stack.mixers < self.mixers / 2:
            words.append(
                f"it has {counted(stack.mixers, 'token mixer')}; publications have at least {self.mixers}"
            )
        if stack.ffn > MAX_FFN:
            words.append(f"{stack.ffn:.0%} of the operators are FFNs, of publications about half")
        if stack.outside:
            words.append(f"a window outside {WINDOWS[0]} to {WINDOWS[1]} tokens")
        return "; ".join(words)


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
