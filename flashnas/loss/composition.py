"""What a model of the full loss sees of a network: its size, its shape, its mix, and where
publications are silent; as a table with one row for each network. And the law by which the first
column counts, the loss of a plain transformer by its size, its shape and its tokens.

The columns of FEATURES have an effect. Those of SILENT are 0 wherever at least two publications
have trained something alike, and outside widen the standard deviation alone: an optimiser gains
nothing there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.text import tokens_text
from flashnas.loss import experts
from flashnas.loss.mix import MIN_FFN_SHARE, Mix, bodies, body_sizes, mix_of

TOKENS = 1e11  # unit of D
RANGE = (7e9, 3.5e11)  # tokens of published trainings
LEAST_TOKENS = 1e8  # to the law, fewer count as these


def aspect(params: np.ndarray, width: np.ndarray) -> np.ndarray:
    """r: ln(width / depth) [N]. params [N]: without embeddings."""
    return np.log(12 * np.asarray(width, float) ** 3 / np.asarray(params, float))


@dataclass(frozen=True)
class Law:
    """The loss of a transformer in nats per token.

        loss = E + a N^-alpha + c (r - r0)^2 + b N^rise D^-beta
        ln N = ln(active parameters) + gamma ln(parameters / active ones) + g ln(granularity)

    N: without embeddings, in 1e9; of a dense network the number of its parameters. D: training tokens,
    in 1e11. r: ln(width / depth), where the depth is active parameters / (12 width^2): the blocks of
    attention and feed-forward that so many parameters make. What size brings and what tokens bring are
    terms of their own, because publications agree on the first where they differ by a third in the
    second. The shipped constants: of size and shape from 19 shapes of arXiv 2502.06857 (Gemstones), 48M
    to 1B parameters; of tokens from 288 pairs of lengths of four publications; gamma and g from
    published trainings of experts.
    """

    e: float
    a: float
    alpha: float
    r0: float
    c: float
    b: float
    beta: float
    rise: float
    gamma: float = 0.0
    g: float = 0.0

    def by_shape(self, params: np.ndarray, width: np.ndarray) -> np.ndarray:
        """The part of size and shape [N], with E, in nats per token. params: without embeddings."""
        bent = self.c * (aspect(params, width) - self.r0) ** 2
        return self.e + self.by_size(np.asarray(params, float)) + bent

    def by_size(self, params: np.ndarray) -> np.ndarray:
        return np.asarray(self.a * (params / experts.PARAMETERS) ** -self.alpha)

    def by_tokens(self, params: Any, tokens: Any) -> np.ndarray:
        """What infinitely many tokens more would bring [N]. Below the lengths that publications have,
        fewer tokens cost networks of all sizes alike."""
        length, known = (
            (np.maximum(np.asarray(tokens, float), least) / TOKENS) ** -self.beta
            for least in (LEAST_TOKENS, RANGE[0])
        )
        rise = (np.asarray(params, float) / experts.PARAMETERS) ** self.rise
        return np.asarray(self.b * (rise * known + length - known))

    def beyond(self, params: Any, tokens: Any) -> np.ndarray:
        """What of `by_tokens` is promised beyond the lengths that publications have, as a distance [N]."""
        known = np.clip(np.asarray(tokens, float), *RANGE)
        return np.abs(self.by_tokens(params, known) - self.by_tokens(params, tokens))

    def fall(self, params: Any, tokens: Any) -> np.ndarray:
        """By how much the loss falls for each factor of e of parameters [N]; 0 where the tokens are so
        few that more parameters would raise it."""
        short = np.maximum(np.asarray(tokens, float), RANGE[0])
        of_size = self.alpha * self.by_size(params)
        return np.maximum(of_size - self.rise * self.by_tokens(params, short), 0.0)


FFN_PARAMS = 0.3  # share of the parameters from which that of the feed-forward layers is counted
FEATURES = (
    "law",
    "tokens",
    "mixed",
    "qk_norm",
    "ffn",
    "window",
    "edge",
    *experts.EXPERT_SDS,
)
SILENT = (
    "ffn_share",
    "bare",
    "rare",
    "new_mix",
    "qk_norm_unknown",
    "qk_norm_own",
    "aspect",
    "size",
    "small",
    "length",
    *experts.EXPERT_SILENT_SDS,
)
# limits of what publications have trained; each row is (axis, lowest, highest)
MAX_FFN_SHARE = 0.5  # of the operators
ASPECTS = (0.9, 5.6)  # ln(width / depth)
SIZES = (2e7, 3e9)  # parameters without embeddings
# from which on a network is said to lie outside
# of the operators: publications have at most half, and one row of one publication more
SUPPORTED_FFN_SHARE = 0.55
SUPPORTED_BARE = 0.25  # share of delta rules and gated linear attention without feed-forward layers
SUPPORTED_RARE = 0.25  # share of mixers that at most one publication has trained
SUPPORTED_NEW_MIX = 0.5  # of the gain of a mix that nobody tried at such a share


def _beyond(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """By how much logarithms lie above limits; negative below them, 0 between."""
    return np.log(values) - np.log(np.clip(values, *limits))


def outside_support(network: Architecture, tokens: float | None = None) -> list[str]:
    """What of a network, and of its planned tokens, no two publications have trained; one sentence
    part each.
    """
    body = bodies([network])
    mix = mix_of(body).take(0)
    params, active, _ = body_sizes(body)[0]
    shape = float(aspect(np.array(active), np.array(network.hidden)))
    found = {
        f"{mix.ffn_share:.0%} of its operators are feed-forward layers; publications have about"
        " half": mix.ffn_share > SUPPORTED_FFN_SHARE,
        f"{mix.ffn_share:.0%} of its operators are feed-forward layers; with these mixers"
        f" publications have at least {MIN_FFN_SHARE:.0%}": mix.bare > SUPPORTED_BARE,
        f"{mix.rare:.0%} of its mixers are of kinds that at most one publication has trained": (
            mix.rare > SUPPORTED_RARE
        ),
        "its second family of mixers has a share at which publications have not tried it": (
            mix.new_mix > SUPPORTED_NEW_MIX
        ),
        f"its width is {np.exp(shape):.0f} times its depth; publications have"
        f" {np.exp(ASPECTS[0]):.0f} to {np.exp(ASPECTS[1]):.0f}": (
            not ASPECTS[0] <= shape <= ASPECTS[1]
        ),
    }
    sizes = {"parameters without embeddings": (active, SIZES)}
    if tokens is not None:
        sizes["training tokens"] = (tokens, RANGE)
    for what, (value, (low, high)) in sizes.items():
        range_ = f"{tokens_text(low)} to {tokens_text(high)}"
        found[f"{tokens_text(value)} {what}; publications have {range_}"] = not low <= value <= high
    words = [text for text, outside in found.items() if outside]
    return words + experts.outside_of_experts(network, params, active)


# -- tables ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """N networks as the model sees them.

    x [N, F]: of FEATURES and SILENT. shares [N, K]: of KINDS. ffn [N]: share of feed-forward layers
    among the operators. publication [N]: in which each is trained. far [N, 2]: by how much the logarithms
    of the parameters that a token uses, and of the training tokens, lie above (or, negative, below)
    what publications have. shape [N]: ln(width / depth), less the best by the law.
    """

    x: np.ndarray
    shares: np.ndarray
    ffn: np.ndarray
    publication: np.ndarray
    far: np.ndarray
    shape: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def joined(cls, *tables: Self) -> Self:
        """All rows of several tables."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))

    def take(self, indices: np.ndarray | slice) -> Self:
        """The rows at these indices."""
        return type(self)(*(column[indices] for column in vars(self).values()))

    @classmethod
    def of(
        cls,
        law: Law,
        mix: Mix,
        sizes_N3: Any,
        widths: Any,
        tokens: Any,
        publication: Any,
        *,
        log_fine: Any = 0.0,
    ) -> Table:
        """Networks by their mixes and sizes; each other argument is of shape [N], or one value for
        all.

        Args:
            sizes_N3: what `body_sizes` gives.
            publication: in which they are trained.
            log_fine: what `log_granularity` gives; 0: dense.
        """
        params, active, ffn = np.asarray(sizes_N3).T
        widths, tokens = np.asarray(widths, float), np.asarray(tokens, float)
        shape = aspect(active, widths)
        fine = np.asarray(log_fine, float)
        counted, *gain = experts.gain_of_experts(law, params, active, fine, tokens)
        untried = gain[0] * np.sqrt(mix.shares[:, 2:].sum(axis=1))
        columns = (
            law.by_shape(active, widths) - law.by_size(active) + law.by_size(counted),
            law.by_tokens(counted, tokens),
            mix.mixed,
            mix.qk_norm,
            (ffn - FFN_PARAMS) ** 2,
            mix.window,
            mix.edge,
            *gain,
            *_silent(mix, active, shape),
            law.beyond(counted, tokens),
            *experts.silent_columns(params, active, untried),
        )
        far = np.broadcast_arrays(_beyond(active, SIZES), _beyond(tokens, RANGE), shape)
        return Table(
            np.stack(np.broadcast_arrays(*columns), axis=-1),
            mix.shares,
            mix.ffn_share,
            np.broadcast_to(np.array(publication, object), len(active)),
            np.stack(far[:2], axis=-1),
            far[2] - law.r0,
        )


def _silent(mix: Mix, params: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns of SILENT but for those of length and of experts."""
    far_size = _beyond(params, SIZES)
    return (
        np.sqrt(np.maximum(0.0, mix.ffn_share - MAX_FFN_SHARE) / 0.15),
        np.sqrt(mix.bare),
        mix.rare,
        np.sqrt(mix.new_mix),
        mix.qk_norm_unknown,
        np.sqrt(mix.qk_norm * ~(mix.qk_norm_unknown > 0)),
        np.sqrt(np.abs(shape - np.clip(shape, *ASPECTS))),
        np.maximum(far_size, 0.0),
        np.maximum(-far_size, 0.0),
    )


@dataclass(frozen=True)
class Rows(Table):
    """Trained networks, which the model learns from. nats [N]: the loss of each. level [N]: the
    group within which its loss compares. noise [N]: standard deviation between seeds, in nats;
    NaN: the usual one of its publication."""

    nats: np.ndarray
    level: np.ndarray
    noise: np.ndarray
