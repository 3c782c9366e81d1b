"""What publications have trained, defined beforehand, and what of a network lies outside, in words.

Nothing is forbidden there: the standard deviation of the full loss grows, and the output says why.
"""

from __future__ import annotations

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.quantities import tokens_text
from flashnas.evidence.composition import ASPECTS, MIN_FFN_SHARE, SIZES, body_sizes, mix_of
from flashnas.evidence.law import RANGE, aspect

MOST_FFN_SHARE = 0.55     # of the operators: publications have at most half, and one row of one publication more
MOST_RARE = 0.25          # share of mixers that at most one publication has trained
MOST_NEW_MIX = 0.5        # of the gain of a mix that nobody tried at such a share
MOST_BARE = 0.25          # share of delta rules and gated linear attention without feed-forward layers


def outside_support(network: Architecture, tokens: float | None = None) -> list[str]:
    """What of a network no two publications have trained, one sentence part each; empty inside the support.

    Args:
        network: at full width.
        tokens: of the planned training; None: they are not looked at.
    """
    mix = mix_of(network.operators)
    params, active, _ = body_sizes(network.operators, network.hidden)
    shape = float(aspect(np.array(np.sqrt(params * active)), np.array(network.hidden)))
    words = []
    if mix.ffn_share > MOST_FFN_SHARE:
        words.append(f"{mix.ffn_share:.0%} of its operators are feed-forward layers; publications have about half")
    if mix.bare > MOST_BARE:
        words.append(f"{mix.ffn_share:.0%} of its operators are feed-forward layers; with these mixers publications"
                     f" have at least {MIN_FFN_SHARE:.0%}")
    if mix.rare > MOST_RARE:
        words.append(f"{mix.rare:.0%} of its mixers are of kinds that at most one publication has trained")
    if mix.new_mix > MOST_NEW_MIX:
        words.append("its second family of mixers has a share at which publications have not tried it")
    if not ASPECTS[0] <= shape <= ASPECTS[1]:
        words.append(f"its width is {np.exp(shape):.0f} times its depth; publications have {np.exp(ASPECTS[0]):.0f} to"
                     f" {np.exp(ASPECTS[1]):.0f}")
    if not SIZES[0] <= params <= SIZES[1]:
        words.append(f"{tokens_text(params)} parameters without embeddings; publications have {_range(SIZES)}")
    if tokens is not None and not RANGE[0] <= tokens <= RANGE[1]:
        words.append(f"{tokens_text(tokens)} training tokens; publications have {_range(RANGE)}")
    return words


def _range(limits: tuple[float, float]) -> str:
    return " to ".join(map(tokens_text, limits))
