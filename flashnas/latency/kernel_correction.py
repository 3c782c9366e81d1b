"""The correction from kernels measured alone to a whole model: one for each table and stack.

A stack states which kernels serve an operator. `fused`: what an optimised engine launches (one product for q, k and v,
one kernel for silu and product, residual additions inside the norms). `unfused`: what a framework launches inside a
CUDA graph when nothing is folded. A kernel in a hot loop finds part of its weights in the cache and has no gap before
it, and another engine has another attention kernel than the measured one. The constants come from whole models that
somebody measured. They are under `calibration.<stack>` in meta.yaml (calibration.py):

    decode step = scale x (products, recurrent kernels, convolutions) + attention_scale x attention
                  + pointwise kernels + gap_us x (number of kernels)

Which constant scales a kernel is a field of its kind (`correction`). `kernel_fit.py` finds the constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flashnas.base.errors import ConfigError
from flashnas.base.hints import one_of
from flashnas.latency.bounded_time import BoundedTime
from flashnas.latency.correction import Correction
from flashnas.operators import KernelCall

Stack = Literal["fused", "unfused"]
STACKS: tuple[Stack, ...] = get_args(Stack)
WHOLE_MODELS = "whole_models.csv"  # in the table's folder: model, workload, latency_s
FITTED_BATCH = 1  # whole models were measured one request at a time
# Constants that are fitted. The attention of a stack without its own constant is scaled like the rest. Fused kernels
# leave few launches per block: then gap_us and attention_scale cannot be told apart on seven models.
FITTED: dict[Stack, tuple[str, ...]] = {"fused": ("scale", "gap_us"), "unfused": ("scale", "attention_scale", "gap_us")}


def choose_stack(calibration: Mapping[str, Any], stack: str | None) -> Stack:
    """`stack`, or else the one that the table's calibration names (`calibration.stack`), or else fused. Raises
    ConfigError for an unknown one."""
    chosen = stack or calibration.get("stack", "fused")
    if chosen not in STACKS:
        raise ConfigError(one_of("stack", chosen, STACKS))
    return chosen


@dataclass(frozen=True, kw_only=True)
class KernelCorrection(Correction):
    """Applied to the kernels of a decode step; rows of whole operators need none.

    Args:
        scale: of kernels whose kind is corrected by `scale`.
        attention_scale: of kernels whose kind is corrected by it; 0: as `scale`.
        gap_us: before each kernel.
        width: of the bounds, as a share of what the correction adds.
        batched: how many times as long as estimated a step of several sequences took where it was measured; 0: not
            known. It widens the upper bound alone.
    """

    scale: float = 1.0
    attention_scale: float = 0.0
    gap_us: float = 0.0
    width: float = 0.0
    batched: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any], stack: Stack = "fused") -> KernelCorrection:
        """The constants of a stack, over those of all stacks."""
        return cls.read(calibration, calibration.get(stack, {}))

    def added(self, calls: Sequence[KernelCall], times: Sequence[BoundedTime], batch: int) -> BoundedTime | None:
        """What the correction adds to one decode step; None if nothing.

        Args:
            calls: the kernels of the step.
            times: of these kernels.
            batch: sequences.
        """
        us = self.gap_us * len(times)
        for call, time in zip(calls, times, strict=True):
            if call.kind.correction:
                us += ((getattr(self, call.kind.correction) or self.scale) - 1) * time.us
        if not us:
            return None
        lower, upper = sorted((us * (1 - self.width), us * (1 + self.width)))
        if batch != FITTED_BATCH:
            upper += max(self.batched - 1, 0) * (us + sum(time.us for time in times))
        return BoundedTime(us, lower, upper, "derived")

    def note(self, batch: int) -> str | None:
        """What a reader of an estimate for `batch` sequences has to know."""
        if batch == FITTED_BATCH or self.batched <= 1:
            return None
        return (f"calibrated on models that decode {FITTED_BATCH} sequence; a step of several took up to"
                f" {self.batched:g} times as long as its kernels where it was measured: take throughput as a ranking"
                " and an upper limit")
