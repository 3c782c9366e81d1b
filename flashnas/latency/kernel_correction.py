"""The correction from kernels measured alone to a whole model: one for each table and stack.

A stack states which kernels serve an operator. `fused`: what an optimised engine launches (one product for q, k and v,
one kernel for silu and product, residual additions inside the norms). `unfused`: what a framework launches inside a
CUDA graph when nothing is folded. A kernel in a hot loop finds part of its weights in the cache and has no gap before
it, and another engine has another attention kernel than the measured one. The constants come from whole models that
somebody measured. They are under `calibration.<stack>` in meta.yaml (calibration.py):

    decode step = scale x (products, recurrent kernels, convolutions) + attention + pointwise kernels
                  + gap_us x (number of kernels)
    attention   = attention_scale x row + attention_us, and at least
                  attention_slowdown x (head_dim / 128)^head_dim_power x (bytes / the device's bandwidth)

Grouped heads read few bytes: the first line counts. Heads that are not grouped, and many sequences, read many. Which
constant scales a kernel is a field of its kind (`correction`). `kernel_fit.py` finds the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
WHOLE_THROUGHPUT = "whole_throughput.csv"  # model, workload, throughput_tok_s
HEAD_DIM = 128       # for which attention_slowdown is stated
# Constants that are fitted, the same for both stacks; attention without a scale of its own is scaled like the rest.
FITTED = ("scale", "gap_us", "attention_us", "attention_slowdown", "head_dim_power")


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
        attention_us: of each such kernel, on top of its row.
        attention_slowdown: how many times as long as its bytes at the device's bandwidth such a kernel takes at least,
            with heads of HEAD_DIM; 0: no such bound.
        head_dim_power: the power of the size of the heads with which that grows.
        width: of the bounds, as a share of what the correction adds.
        batched: how many times as long as estimated a step of several sequences took where it was measured; 0: not
            known. It widens the upper bound alone.
    """

    scale: float = 1.0
    attention_scale: float = 0.0
    gap_us: float = 0.0
    attention_us: float = 0.0
    attention_slowdown: float = 0.0
    head_dim_power: float = 0.0
    width: float = 0.0
    batched: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any], stack: Stack = "fused") -> KernelCorrection:
        """The constants of a stack, over those of all stacks."""
        return cls.read(calibration, calibration.get(stack, {}))

    def attention(self, time_us: float, bytes_us: float, head_dim: int) -> float:
        """Microseconds of an attention kernel in a whole model.

        Args:
            time_us: of its row.
            bytes_us: of its bytes at the device's bandwidth.
            head_dim: size of a head.
        """
        least = self.attention_slowdown * (head_dim / HEAD_DIM) ** self.head_dim_power * bytes_us
        return max((self.attention_scale or self.scale) * time_us + self.attention_us, least)

    def added(self, calls: Sequence[KernelCall], times: Sequence[BoundedTime], batch: int,
              bytes_us: Callable[[KernelCall], float]) -> BoundedTime | None:
        """What the correction adds to one decode step; None if nothing.

        Args:
            calls: the kernels of the step.
            times: of these kernels.
            batch: sequences.
            bytes_us: what the bytes of a kernel take at the device's bandwidth.
        """
        us = self.gap_us * len(times)
        for call, time in zip(calls, times, strict=True):
            if call.kind.correction == "attention_scale":
                us += self.attention(time.us, bytes_us(call), dict(call.shape).get("head_dim", HEAD_DIM)) - time.us
            elif call.kind.correction:
                us += (self.scale - 1) * time.us
        if not us:
            return None
        lower, upper = sorted((us * (1 - self.width), us * (1 + self.width)))
        if batch != 1:
            upper += max(self.batched - 1, 0) * (us + sum(time.us for time in times))
        return BoundedTime(us, lower, upper, "derived")

    def note(self, batch: int) -> str | None:
        """What a reader of an estimate for `batch` sequences has to know."""
        if batch == 1 or self.batched <= 1:
            return None
        return ("a step of several sequences is calibrated on one engine, whose attention is slower than the kernels of"
                f" this table; it took up to {self.batched:g} times as long as estimated where it was measured: take"
                " throughput as a ranking")
