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

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flashnas.architecture.networks import Networks
from flashnas.base.text import counted
from flashnas.loss.mathematics import ATTENTION, DELTA_RULE, MATHEMATICS
from flashnas.loss.mix import stacks
from flashnas.observations.losses import DATA
from flashnas.operators import OperatorSpec

SHIPPED = DATA / "published_recall.csv"
CONTEXT, REACH = 2048, 0.9  # a window of w tokens finds sqrt(w / CONTEXT), at most REACH
FEW = 2.0  # n mixers do all but exp(-n / FEW) of what many do
Form = tuple[float, float, bool]  # s; t, where 0 leaves `hybrid` out; whether `decay` is there
FORM: Form = (0.1, 0.3, True)  # the shipped rows choose it: experiments/evidence/recall.py
OWN = np.array([0.1, 0.05, 0.05, 0.05])  # standard deviations of b1 to b4 between publications
NOISE = 0.04  # of a training
# Standard deviations where publications are silent.
KIND_SD = 0.06  # of a stack of one kind, divided by 1 + publications with that kind
DEPTH_SD = 0.03  # per factor e below the mixers that publications have
FFN_SD, MAX_FFN = 0.2, 0.55  # per unit of the share of FFNs above this
STATES_SD = 0.04  # per unit of the share of the states that are not of the first kind
WINDOW_SD, WINDOWS = 0.03, (64, 1024)  # per factor 2 outside these


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


def effects_of(stacks: Mixture, form: Form) -> np.ndarray:
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


@dataclass(frozen=True)
class RecallModel:
    """The posterior of b1 to b4 after published rows.

    kinds: that publications have; others find nothing again. publications: kind -> how many have it.
    mixers: the fewest of a row. states: the sets of kinds of states of one row. mean [4] and covariance
    [4, 4]: of the coefficients; scale: of all standard deviations.
    """

    form: Form
    kinds: frozenset[str]
    publications: Mapping[str, int]
    mixers: int
    states: Set[frozenset[str]]
    mean: np.ndarray
    covariance: np.ndarray
    scale: float

    def expected(self, stacks: Networks) -> np.ndarray:
        """Mean [N] of the marks in a new publication, less those of its transformer."""
        return effects_of(mixture_of(stacks, self.kinds), self.form) @ self.mean

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
                    / (1 + self.publications.get(kind, 0))
                    * stacks.totals_of(kinds == kind)
                    / np.maximum(1.0, count)
                    for kind, count in among.items()
                ),
            ],
            axis=-1,
        )
        effects = effects_of(columns, self.form)
        noise = NOISE**2 * (1 + np.eye(len(stacks)))
        heard = effects @ (self.covariance + np.diag(OWN**2)) @ effects.T + noise
        return effects @ self.mean, self.scale**2 * heard + silent @ silent.T

    def supported(self, specs: Sequence[OperatorSpec]) -> str:
        """What of a stack no publication has, in words; "" if nothing. Half of their least depth
        will do.
        """
        stack = mixture_of(stacks([specs]), self.kinds)
        states = frozenset(kind for kind, share in stack.states.items() if share[0])
        unknown = sorted({spec.kind for spec in specs if spec.kind not in self.publications})
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
