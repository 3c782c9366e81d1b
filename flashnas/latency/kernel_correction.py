"""One correction per table and stack: from the sum of kernels measured alone to a whole model.

A stack says which kernels serve an operator: `fused` is what an optimised engine launches (one product for q, k and v,
one kernel for silu and product, residual additions folded into norms), `unfused` what a framework launches inside a
CUDA graph when nothing is folded. A kernel in a hot loop finds part of its weights in the cache and no gap before it,
and another engine has another attention kernel than the one measured. The constants come from whole models that
somebody measured; they stand under `calibration.<stack>` in meta.yaml:

    decode step = scale x (products, recurrent kernels, convolutions) + attention_scale x attention
                  + pointwise kernels + gap_us x (number of kernels)

`kernel_fit.py` finds the constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.hints import one_of
from flashnas.latency.answer import Answer
from flashnas.latency.table import LatencyTable
from flashnas.operators import KernelCall

Stack = Literal["fused", "unfused"]
STACKS: tuple[Stack, ...] = get_args(Stack)
WHOLE_MODELS = "whole_models.csv"  # in the table's folder: model, workload, latency_s
FITTED_BATCH = 1  # whole models were measured one request at a time
CONSTANTS = ("scale", "attention_scale", "gap_us", "width", "batched")
# Constants that are fitted; the attention of a stack without its own constant is scaled like the rest. Fused kernels
# leave so few launches per block that gap_us and attention_scale cannot be told apart on seven models.
FITTED: dict[Stack, tuple[str, ...]] = {"fused": ("scale", "gap_us"), "unfused": ("scale", "attention_scale", "gap_us")}


def choose_stack(table: LatencyTable, stack: str | None) -> Stack:
    """`stack`, or else the one that the table's calibration names (`calibration.stack`), or else fused."""
    chosen = stack or table.calibration.get("stack", "fused")
    if chosen not in STACKS:
        raise ConfigError(one_of("stack", chosen, STACKS))
    return chosen


@dataclass(frozen=True)
class Calibration:
    """Applied to the kernels of a decode step; rows of whole operators need none. attention_scale 0: as `scale`.
    width: of the bounds, as a share of what the correction adds. batched: how many times as long as estimated a step of
    several sequences was seen to take (0: not known); it widens the upper bound alone."""

    scale: float = 1.0
    attention_scale: float = 0.0
    gap_us: float = 0.0
    width: float = 0.0
    batched: float = 0.0

    @classmethod
    def of(cls, table: LatencyTable, stack: Stack = "fused") -> Calibration:
        """From meta.yaml: the entry of the stack over those of all stacks; raises TableError if one is no number of
        at least 0."""
        values: dict[str, float] = {}
        own = table.calibration.get(stack, {})
        for place, entry in (("calibration", table.calibration), (f"calibration.{stack}", own)):
            if not isinstance(entry, Mapping):
                raise TableError(f"{table.path / 'meta.yaml'}: {place} must be a mapping; got {entry!r}")
            for key in CONSTANTS:
                value = entry.get(key, 0)
                if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                    raise TableError(f"{table.path / 'meta.yaml'}: {place}.{key} must be a number of at least 0;"
                                     f" got {value!r}")
            values.update({key: entry[key] for key in CONSTANTS if key in entry})
        return cls(**values)

    def added(self, calls: Sequence[KernelCall], answers: Sequence[Answer], batch: int) -> Answer | None:
        """What the correction adds to these kernels of one decode step of `batch` sequences; None if nothing."""
        us = self.gap_us * len(answers)
        for call, answer in zip(calls, answers, strict=True):
            if call.kind != "pointwise":
                attention = self.attention_scale if call.kind.startswith("attention") else 0.0
                us += ((attention or self.scale) - 1) * answer.us
        if not us:
            return None
        lower, upper = sorted((us * (1 - self.width), us * (1 + self.width)))
        if batch != FITTED_BATCH:
            upper += max(self.batched - 1, 0) * (us + sum(answer.us for answer in answers))
        return Answer(us, lower, upper, "derived")

    def note(self, batch: int) -> str | None:
        """What a reader of an estimate for `batch` sequences has to know."""
        if batch == FITTED_BATCH or self.batched <= 1:
            return None
        return (f"calibrated on models that decode {FITTED_BATCH} sequence; a step of several took up to"
                f" {self.batched:g} times as long as its kernels where it was measured: take throughput as a ranking"
                " and an upper limit")
