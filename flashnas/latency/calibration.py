"""From the rows of kernels to whole models: times with bounds, the calibrations of a table, and the
interval that measured models justify. A table's meta.yaml holds the calibrations by name:

    calibration:
      engine: {step_scale: 1.07, overlap: 3.0, ...}      a Calibration
      paper: {scale: 1.18, gap_us: 3.7, ...}

`engine`: the rows as vLLM, SGLang and TensorRT-LLM run them. The host prepares the next step while
the device computes, so that the longer of the two decides; they overlap in part:

    step = ((step_scale x rows)^overlap + host_us^overlap)^(1 / overlap)

host_us is of one program, by its name in `hosts`: the latest vLLM that was timed beside the GPU,
unless others are named (`Calibration.of_programs`); within host_range_us. A program that was not
timed has the host of any (OTHER), with the interval of all. Kernels that take so little time that
the host hides them count as HIDDEN of it, so that networks are not ranked by them.

`paper`: PyTorch in one CUDA graph, as in table 6 of arXiv 2511.18890. A kernel in a hot loop finds
part of its weights in the cache and has no gap before it, PyTorch runs more small kernels, which the
gap stands for, and it has another attention kernel:

    decode step = scale x (products, recurrent kernels, convolutions) + attention + pointwise kernels
                  + gap_us x (number of kernels)
    attention   = scale x row + attention_us, and at least
                  slowdown x (bytes / the device's bandwidth)
    slowdown    = attention_slowdown x (head_dim / 128)^head_dim_power, and at most
                  attention_filled x (1 + attention_blocks / (sequences x key-value heads))

A block of threads reads one head of one sequence, and the device runs `attention_blocks` of them at
once: the last round is partly empty, which costs up to one round more. Which constant scales a
kernel is a field of its kind (`correction`). tools/fit_engine.py finds the constants of `engine` from
whole models that others measured, and what these leave open.

**Interval.** Every interval of a latency is a 90 % interval (INTERVAL). A step may be as far off as
half_width says, and as the fastest and the slowest host of host_range_us make it. A network whose
kernels take long hides every host; a small one does not. An estimate adds what the models that were
timed do not cover: FAR for each e-fold outside of the range of their steps, and the bounds of the
rows of the prompt, of kinds of kernels that they lack, and of derived rows beyond the share that
they had. All of these are independent of each other, and their squares add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flashnas.base.documents import LocatedDict, convert
from flashnas.base.errors import TableError
from flashnas.base.text import has_no
from flashnas.latency.workload import CALIBRATIONS
from flashnas.operators import KernelCall, Phase

INTERVAL = 0.90  # probability of every interval of a latency
OWN = "own"  # of a table without the constants of that name
VALIDATIONS = "validations"  # the list in meta.yaml of what `flashnas validate` found
HEAD_DIM = 128  # for which attention_slowdown is stated
FAR = 0.1  # of half_width, for each e-fold that a step is outside of step_ms
HIDDEN = 0.01  # of the host's time: the least that kernels add to it
USUAL, OTHER = "vllm", "other"  # in `hosts`: where no program is named, and one that was not timed


# Half-widths of the bounds, relative to the value. Measured rows have their own p10 and p90, but a
# median in another process moves by a few per cent; imported rows state no percentiles. Bounds add
# up linearly over the parts of a model.
SOURCE_SPREAD = {"measured": 0.05, "imported": 0.10, "derived": 0.20, "roofline": 0.50}


@dataclass(frozen=True, slots=True)
class BoundedTime:
    """A time with bounds (lower_us <= us <= upper_us), and the least direct source of its parts."""

    us: float
    lower_us: float
    upper_us: float
    source: str

    def derived(self, spread: float, *, upper: float | None = None) -> BoundedTime:
        """The same value under a rule that widens the bounds by `spread` (upwards by `upper` if
        given).
        """
        up = spread if upper is None else upper
        return replace(
            self,
            lower_us=self.lower_us * (1 - spread),
            upper_us=self.upper_us * (1 + up),
            source="derived",
        )

    def times(self, factor: float) -> BoundedTime:
        """`factor` of these one after another."""
        return BoundedTime(
            self.us * factor, self.lower_us * factor, self.upper_us * factor, self.source
        )


def around(us: float, width: float, source: str = "derived") -> BoundedTime:
    """A time, which may be negative, with bounds that are a share of it wide."""
    lower, upper = sorted((us * (1 - width), us * (1 + width)))
    return BoundedTime(us, lower, upper, source)


@dataclass(frozen=True)
class Host:
    """What a program needs for a step, in microseconds, with its 90 % interval. program: as it was
    timed."""

    us: float
    range_us: tuple[float, float]
    program: str = ""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The constants of one name, as stated above; their defaults change nothing.

    Args:
        host_range_us: the 90 % interval of host_us; zeros: not known.
        hosts: of each program that was timed, and of OTHER.
        program: whose host this is, in words.
        half_width: of the interval, of the logarithm of a time; 0: no whole model says anything.
        batched_half_width: of several sequences, where that is not half_width.
        step_ms: shortest and longest measured step; 0: not known.
        kinds: kinds of kernels of the models -> largest share of a step that was derived.
        borrowed: the table whose models these are, if not this one's.
        left_out_mean_error, left_out_max_error: relative, of the models, each left out in turn.
    """

    scale: float = 1.0
    gap_us: float = 0.0
    attention_us: float = 0.0
    attention_slowdown: float = 0.0
    head_dim_power: float = 0.0
    attention_filled: float = 0.0
    attention_blocks: float = 0.0
    step_scale: float = 1.0
    host_us: float = 0.0
    host_range_us: tuple[float, float] = (0.0, 0.0)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    program: str = ""
    overlap: float = 1.0
    half_width: float = 0.0
    batched_half_width: float = 0.0
    step_ms: tuple[float, float] = (0.0, 0.0)
    kinds: Mapping[str, float] = field(default_factory=dict)
    borrowed: str = ""
    left_out_mean_error: float = 0.0
    left_out_max_error: float = 0.0
    fitted_on: str = ""
    reproduce: str = ""
    name: str = OWN

    def __post_init__(self) -> None:
        shortest, longest = self.step_ms
        if self.overlap < 1:
            raise ValueError(f"overlap must be at least 1; got {self.overlap:g}")
        if shortest > longest:
            raise ValueError(f"step_ms must be shortest and longest; got {list(self.step_ms)}")
        fastest, slowest = self.host_range_us
        if slowest and not fastest <= self.host_us <= slowest:
            raise ValueError(f"host_range_us must contain host_us; got {list(self.host_range_us)}")

    @property
    def text(self) -> str:
        """For the line that says what an estimate rests on."""
        if self.name == OWN:
            return "by its rows alone"
        borrowed = f" borrowed from {self.borrowed}" * bool(self.borrowed)
        return f"calibration {self.name}{borrowed}{f', {self.program}' * bool(self.program)}"

    def of_programs(self, names: Collection[str] = ()) -> Calibration:
        """With the host of a program; of several the one that is known least, and an interval that
        holds those of all. names: of `--runtime`; none: the latest vLLM."""
        if not self.hosts:
            return self
        names = sorted(names) or [USUAL]
        found = [self.hosts.get(name, self.hosts[OTHER]) for name in names]
        if unknown := [name for name in names if name not in self.hosts]:
            program = (
                f"no {' or '.join(unknown)} of today was timed on this device: intervals of all"
                " programs"
            )
            if "llama.cpp" in unknown:  # which most people run on another machine
                program += "; a table of yours: flashnas profile --runtime llama.cpp"
        else:
            program = f"host of {' and '.join(host.program for host in found)}"
        least, most = zip(*(host.range_us for host in found), strict=True)
        return replace(
            self,
            host_us=max(found, key=lambda host: host.range_us[1] / host.range_us[0]).us,
            host_range_us=(min(least), max(most)),
            program=program,
        )

    # -- times

    def attention(self, time_us: float, bytes_us: float, head_dim: int, pairs: int) -> float:
        """Microseconds of an attention kernel in a whole model, from those of its row and of its
        bytes at the device's bandwidth. pairs: sequences x key-value heads."""
        slowdown = self.attention_slowdown * (head_dim / HEAD_DIM) ** self.head_dim_power
        if self.attention_filled:
            slowdown = min(slowdown, self.attention_filled * (1 + self.attention_blocks / pairs))
        return max(self.scale * time_us + self.attention_us, slowdown * bytes_us)

    def added(
        self,
        calls: Sequence[KernelCall],
        times: Sequence[BoundedTime],
        batch: int,
        bytes_us: Callable[[KernelCall], float],
    ) -> BoundedTime | None:
        """What the calibration adds to these kernels in one decode step; None if nothing. bytes_us:
        what the bytes of a kernel take at the device's bandwidth."""
        us = self.gap_us * len(times)
        for call, time in zip(calls, times, strict=True):
            if call.kind.correction == "attention":
                us += self.attention(time.us, bytes_us(call), *heads(call, batch)) - time.us
            elif call.kind.correction:
                us += (self.scale - 1) * time.us
        return around(us, 0.0) if us else None

    def step_us(self, rows_us: Any, host_us: float | None = None) -> Any:
        """Of one step, or of reading a prompt, from its kernels; 0 where there are none. rows_us: a
        number or an array. host_us: of another host."""
        host_us = self.host_us if host_us is None else host_us
        if not host_us:
            return self.step_scale * rows_us
        power = self.overlap
        step_us = ((self.step_scale * rows_us) ** power + host_us**power) ** (1 / power)
        return np.maximum(step_us, (1 + HIDDEN) * host_us) * (rows_us != 0)

    # -- intervals

    def half_width_of(self, step_ms: Any, batch: int) -> Any:
        """Of the logarithm of a step that consists of kernels that the models have. step_ms: a
        number or an array; 0 if nothing is generated."""
        if batch > 1 and self.batched_half_width:
            return self.batched_half_width
        shortest, longest = self.step_ms
        if not longest or not np.any(step_ms):
            return self.half_width
        outside = np.maximum(np.log(shortest / step_ms), np.log(step_ms / longest))
        return self.half_width + FAR * np.maximum(outside, 0.0)

    def by_hosts(self, rows_us: Any) -> tuple[Any, Any]:
        """A step with the fastest and the slowest host, as shares of one with host_us."""
        if not np.any(rows_us) or not self.host_range_us[1]:
            return 1.0, 1.0
        fastest, slowest = (self.step_us(rows_us, host) for host in self.host_range_us)
        return fastest / self.step_us(rows_us), slowest / self.step_us(rows_us)

    def _has(self, phase: Phase, kernel: str) -> bool:
        """Whether the models have such kernels."""
        return kernel in self.kinds and (phase == "decode" or self.name == OWN)

    def widens(self, phase: Phase, kernel: str, source: str) -> bool:
        """Whether the bounds of a part may count beside half_width."""
        return source == "derived" or not self._has(phase, kernel)

    def interval(
        self,
        phase: Phase,
        us: Any,
        parts: Mapping[str, Any],
        width: Any,
        by_hosts: tuple[Any, Any] = (1.0, 1.0),
    ) -> tuple[Any, Any]:
        """The lower and the upper bound of `us`, the time of one phase, of a network or of each [N].
        parts: kernel -> [3, ...]: the time of what `widens`, and by how much it may be less, and
        more. width: `half_width_of` a step."""
        down, up = (np.hypot(np.log(share), width) for share in by_hosts)
        below, above = [us * -np.expm1(-down)], [us * np.expm1(up)]
        for kernel, (widening_us, less_us, more_us) in parts.items():
            share: Any = self.step_scale
            if self._has(phase, kernel):
                known = self.kinds[kernel] * us / np.maximum(widening_us, 1e-300)
                share = share * np.maximum(0.0, 1 - known)
            below.append(share * less_us)
            above.append(share * more_us)
        # of rows alone, all may err to the same side
        less, more = (
            np.sqrt(sum(np.square(part) for part in ends)) if self.half_width else sum(ends)
            for ends in (below, above)
        )
        return np.maximum(us - less, 0.0), us + more

    def note(self, batch: int) -> str | None:
        """What a reader of an estimate for `batch` sequences has to know."""
        if batch == 1 or not self.batched_half_width:
            return None
        return (
            f"a step of several sequences under calibration {self.name} is of one engine, whose"
            " attention is slower than the kernels of this table: take throughput as a ranking"
        )


def heads(call: KernelCall, batch: int) -> tuple[int, int]:
    """Of an attention kernel: size of a head, sequences x key-value heads."""
    shape = dict(call.shape)
    return int(shape.get("head_dim", HEAD_DIM)), batch * int(shape.get("kv_heads", 1))


# -- residuals of validated networks ---------------------------------------------------------------


def conformal_margin(log_ratios: Sequence[float]) -> float:
    """The upper conformal quantile at INTERVAL; infinite for fewer than 9 values."""
    rank = math.ceil((len(log_ratios) + 1) * INTERVAL - 1e-9)
    return sorted([*log_ratios, math.inf])[rank - 1]


# -- what meta.yaml may hold -----------------------------------------------------------------------


def check_calibrations(calibrations: LocatedDict) -> None:
    """Raise TableError, with file, line and rule, for a wrong key or value under `calibration`."""
    for name, constants in calibrations.items():
        place = calibrations.place(name)
        if name not in CALIBRATIONS:
            raise TableError(f"{place}: {has_no('calibration', 'key', name, CALIBRATIONS)}")
        title = f"calibration.{name}"
        convert(constants, Calibration, place, TableError, name=title, closed=True)
        for constant, value in constants.items():
            # widths and powers are exponents
            most = 10 if constant.endswith(("width", "power")) else 1_000_000
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not 0 <= number <= most:
                    raise TableError(
                        f"{constants.place(constant)}: {title}.{constant} must be a number from 0 to"
                        f" {most:,}; got {number!r}"
                    )
