"""The answer of a table to one question, with where it comes from and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from flashnas.latency.schema import SOURCES

# Half-widths of the bounds, relative to the value. Measured rows have their own p10 and p90, but a median in another
# process moves by a few per cent; imported rows tell no percentiles. Bounds add up linearly over the parts of a model.
SPREAD = {"measured": 0.05, "imported": 0.10, "derived": 0.20, "roofline": 0.50}

NEGLIGIBLE = 0.01
# Further widths of the rules that make a `derived` value out of rows.
OUTSIDE = 0.15      # an axis beyond the grid, cut into equal pieces, or a cell that was not measured
PADDED_HEAD = 0.20  # a head dimension that was not measured counts as the next larger one
WINDOW = 0.30       # a window that was not measured: full attention over as many tokens
STATE = 0.30        # a recurrent decode step by the gated delta rule's of the same state bytes
CHUNK = 0.50        # a recurrent prefill by the gated delta rule's chunk kernel of the same tokens and state bytes
GENERAL_CHUNK = 2.0  # times as long: two vectors write where the delta rule has one (arXiv 2510.26692, figure 2)
DECAYS = 0.50       # a selective scan's step reads half as much again: each state entry has a decay of its own
EXPERTS = 0.50      # all experts that a batch hits as one product
STEPWISE = 0.90     # no chunk kernel measured: a short prefill as so many decode steps, which is more than it takes

RULES = (
    f"beyond the largest measured n, k, m, batch, tokens, context, heads or channels: equal pieces inside the grid, one"
    f" after another (+-{OUTSIDE:.0%})",
    "below the smallest measured size: the smallest",
    f"a cell too large to be measured: the smaller batch (gemm: smaller n) in proportion (+-{OUTSIDE:.0%})",
    f"a head_dim that was not measured: the next larger one (+-{PADDED_HEAD:.0%})",
    f"a window that was not measured: full attention over min(context, window) tokens (+-{WINDOW:.0%})",
    f"ssd, delta_rule, gla, kda and rwkv7 decode: the gated delta rule's step of the same state bytes (+-{STATE:.0%})",
    f"ssd, delta_rule, gla and kda prefill: the gated delta rule's chunk kernel of the same tokens and state bytes;"
    f" rwkv7 prefill: {GENERAL_CHUNK:g} times as long (+-{CHUNK:.0%})",
    f"selective_scan decode: the same, and up to {DECAYS:.0%} more for its decays; longer prefills: only measured",
    f"experts: with m tokens that choose evenly, experts x (1 - (1 - active / experts)^m) of them are hit; all of these"
    f" as one gemm of as many weights and operations (+-{EXPERTS:.0%})",
    f"no chunk kernel measured: up to 512 tokens count as so many decode steps (-{STEPWISE:.0%})",
    "pointwise kernels: launch_us + bytes / (bandwidth_share x bandwidth), source roofline",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A time in microseconds with bounds; lower_us <= us <= upper_us."""

    us: float
    lower_us: float
    upper_us: float
    source: str

    def derived(self, width: float, *, upper: float | None = None) -> Answer:
        """The same value under a rule that widens the bounds by `width` (upwards by `upper` if given)."""
        up = width if upper is None else upper
        return replace(self, lower_us=self.lower_us * (1 - width), upper_us=self.upper_us * (1 + up),
                       source="derived")

    def times(self, factor: float) -> Answer:
        return replace(self, us=self.us * factor, lower_us=self.lower_us * factor, upper_us=self.upper_us * factor)


def source_of(rows: pd.DataFrame) -> str:
    """The least direct source among rows that answer together."""
    return max(map(str, rows["source"].unique()), key=SOURCES.index)


def from_grid(us: np.ndarray, ruled: np.ndarray, source: str) -> Answer:
    """Mean over all asked points of a LogGrid's result; points that needed a rule have wider bounds, and the whole is
    `derived` if they make up more than NEGLIGIBLE of the time (context 1 of 8192, where 2 is the shortest measured)."""
    us, ruled = us.reshape(-1, 3), ruled.reshape(-1)
    wider = np.where(ruled[:, None], [1, 1 - OUTSIDE, 1 + OUTSIDE], 1.0)
    mean = (us * wider).mean(axis=0)
    by_rule = us[ruled, 0].sum() > NEGLIGIBLE * us[:, 0].sum()
    return Answer(float(mean[0]), float(mean[1]), float(mean[2]), "derived" if by_rule else source)


def roofline(us: float) -> Answer:
    width = SPREAD["roofline"]
    return Answer(us, us * (1 - width), us * (1 + width), "roofline")
