"""The compositions and the sizes of many networks as arrays, as a model of the full loss counts
them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import Networks
from flashnas.loss.mathematics import ATTENTION, DELTA_RULE, LINEAR_ATTENTION, MATHEMATICS
from flashnas.observations.losses import normed
from flashnas.operators import OperatorSpec

FULL_SHARE = 0.15  # a second family with this share of the mixers counts fully
PUBLISHED_WINDOW = 2048  # tokens; most published trainings with windows have at least this context
FAMILIES = (ATTENTION, "state space", DELTA_RULE, LINEAR_ATTENTION)
# kinds whose shares the residual process compares, those of attention first
KINDS = ("a", "swa", "m", "m2", "gla", "d", "gd", "r7", "kda", "other")
# kinds that count as another one by a part of their share: a correlation of what is known of both
ALIKE = {"kda": ("gd", 0.7)}
RARE = ("r7", "kda")  # mixers that one publication has trained, alone
PURE = ("r7",)  # mixers that no publication has mixed with others
# a second family that publications have tried beside any other, also at a small share
TRIED_BESIDE_ALL = ATTENTION
MIN_FFN_SHARE = 1 / 3  # of the operators, for families that have no channel mixer of their own
NEED_FFN = (DELTA_RULE, LINEAR_ATTENTION)


def bodies(networks: Sequence[Architecture]) -> Networks:
    """Architectures as arrays, for what depends neither on their vocabulary nor on meta tokens."""
    if isinstance(networks, Networks):
        return networks
    return stacks([network.operators for network in networks], [n.hidden for n in networks])


def stacks(operators: Sequence[Sequence[OperatorSpec]], hidden: Any = 0) -> Networks:
    """Operator lists as arrays. hidden: widths [N], or one for all; any where it makes no
    difference."""
    widths = np.broadcast_to(np.asarray(hidden, int), len(operators))
    return Networks([tuple(each) for each in operators], np.arange(len(operators)), widths)


def body_sizes(networks: Networks) -> np.ndarray:
    """Parameters without embeddings, those of them that one token uses, and of these the share of
    feed-forward layers [N, 3]."""
    total = networks.totals(lambda spec, hidden: spec.params(hidden))
    active = networks.totals(lambda spec, hidden: spec.active_params(hidden))
    ffn = networks.totals(
        lambda spec, hidden: 0.0 if spec.mixes_tokens else spec.active_params(hidden)
    )
    return np.stack([total, active, ffn / active], axis=-1)


@dataclass(frozen=True)
class Mix:
    """The compositions of N stacks, without their sizes; each column is of shape [N].

    shares [N, K]: of the token mixers by KINDS. ffn_share: of the operators. mixed: how far a second
    family is there, of kinds that publications have mixed. rare: share of the mixers of kinds that at
    most one publication has trained. qk_norm: share of the mixers that is attention with it;
    qk_norm_unknown: that may have it. window: share that sees a short window, weighted by how short.
    edge: 1 where the few attention layers stand at one end. new_mix: `mixed` as far as no publication
    had such a pair at such a share. bare: share of recurrent mixers without a channel mixer, where
    feed-forward layers are few.
    """

    shares: np.ndarray
    ffn_share: np.ndarray
    mixed: np.ndarray
    rare: np.ndarray
    qk_norm: np.ndarray
    qk_norm_unknown: np.ndarray
    window: np.ndarray
    edge: np.ndarray
    new_mix: np.ndarray
    bare: np.ndarray

    def take(self, indices: np.ndarray | int) -> Self:
        """Those at these indices."""
        return type(self)(*(column[indices] for column in vars(self).values()))


def mix_of(networks: Networks, *, published: Any = False, unknown: Any = False) -> Mix:
    """The compositions of networks.

    Args:
        published: of each network [N], or of all, whether a publication leaves open what its windows
            are where they are at their default.
        unknown: the same, whether its queries and keys are normalised.
    """
    each, of = networks.each_composition
    columns = 6 + len(FAMILIES) + len(KINDS)
    values = np.array([_counted(spec) for spec, _ in each.pairs], float).reshape(-1, columns)
    # sums of whole numbers are exact: what is equal is equal in all bits
    operators, mixers, rare, normed, window, stated, *kinds = map(each.totals_of, values.T)
    total, ffn_share = np.maximum(mixers, 1.0), 1 - mixers / operators
    families = np.array(kinds[: len(FAMILIES)])
    minor = (families.sum(axis=0) - families.max(axis=0)) / total
    need = sum(families[FAMILIES.index(name)] for name in NEED_FFN) / total
    mix = Mix(
        shares=np.array(kinds[len(FAMILIES) :]).T / total[:, None],
        ffn_share=ffn_share,
        mixed=np.minimum(1.0, minor / FULL_SHARE),
        rare=rare / total,
        qk_norm=normed / total,
        qk_norm_unknown=families[FAMILIES.index(ATTENTION)] / total,
        window=window / total,
        edge=np.array([_edge(each.compositions[index]) for index in each.composition], float),
        new_mix=_new_mix(families / total, minor),
        bare=np.maximum(0.0, 1 - ffn_share / MIN_FFN_SHARE) * need,
    ).take(of)
    return dataclasses.replace(
        mix,
        window=np.where(published, (stated / total)[of], mix.window),
        qk_norm=np.where(unknown, 0.5 * mix.qk_norm_unknown, mix.qk_norm),
        qk_norm_unknown=np.where(unknown, mix.qk_norm_unknown, 0.0),
    )


def _counted(spec: OperatorSpec) -> list[float]:
    """What an operator adds to the sums over a stack: operators, mixers, mixers
    that at most one publication has, attention with QK-norm, how short windows are, the same of
    stated ones, and mixers by FAMILIES and by KINDS."""
    if not spec.mixes_tokens:
        return [1.0] + [0.0] * (5 + len(FAMILIES) + len(KINDS))
    known = spec.kind in KINDS
    # what publications found of other mixers is no bonus for one that they have not mixed
    mixed = known and spec.kind not in PURE
    kind = spec.kind if known else "other"
    alike, part = ALIKE.get(kind, (kind, 1.0))
    shares = {kind: (1 - part**2) ** 0.5, alike: part}
    short = _shortness(spec)
    return [
        1.0,
        1.0,
        not known or spec.kind in RARE,
        normed(spec),
        short,
        short if "window" in spec.options() else 0.0,
        *(mixed and MATHEMATICS[spec.kind] == family for family in FAMILIES),
        *(shares.get(each, 0.0) for each in KINDS),
    ]


def _shortness(spec: OperatorSpec) -> float:
    """How short the window of an operator is: 1 for each factor of 8 below those of publications."""
    tokens = spec.window_tokens
    return max(0.0, math.log2(PUBLISHED_WINDOW / tokens)) / 3 if tokens else 0.0


def _edge(operators: Sequence[OperatorSpec]) -> float:
    """How far a minority of attention is in the first or the last fifth of the stack: 0 to 1."""
    attends = [MATHEMATICS.get(spec.kind) == ATTENTION for spec in operators if spec.mixes_tokens]
    places = [place for place, each in enumerate(attends) if each]
    if not 0 < 2 * len(places) <= len(attends):
        return 0.0
    middle = (sum(places) / len(places) + 0.5) / len(attends)
    return min(1.0, max(0.0, (abs(middle - 0.5) - 0.3) / 0.2))


def _new_mix(families: np.ndarray, minor: np.ndarray) -> np.ndarray:
    """The part of `mixed` that stems from a second family which nobody tried at a small share; shares
    [families, N]."""
    beside = FAMILIES.index(TRIED_BESIDE_ALL)
    tried = np.where(families.argmax(axis=0) == beside, minor, np.minimum(minor, families[beside]))
    new = np.minimum(1.0, minor / FULL_SHARE) - np.minimum(1.0, tried / FULL_SHARE)
    return new * np.clip(1 - (minor - 0.25) / 0.15, 0.0, 1.0)
