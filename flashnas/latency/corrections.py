"""From times of rows to the time of a whole model: the constants under `calibration` in a table's
meta.yaml.

    calibration:
      stack: unfused                    the stack that `estimate` takes if none is given
      unfused: {scale: 1.1, ...}        a KernelCorrection, for sums of kernels: one for each table
      and stack width: 0.3                        constants outside of a stack are those of all
      stacks fitted_on: ...                    what the constants come from, and the command that
      finds them again reproduce: ...
      whole:                            a ModelCorrection for each mode and phase, for rows of whole
      operators
        eager: {prefill: {scale: 1.0, ...}, decode: {...}}
        workload: chat
        fitted_on: [hash, ...]

**Kernels.** A stack states which kernels serve an operator. `fused`: what an optimised engine
launches (one product for q, k and v, one kernel for silu and product, residual additions inside the
norms). `unfused`: what a framework launches inside a CUDA graph. A kernel in a hot loop finds part
of its weights in the cache and has no gap before it, and another engine has another attention
kernel. tools/fit_kernels.py finds the constants from whole models that somebody measured:

    decode step = scale x (products, recurrent kernels, convolutions) + attention + pointwise
    kernels
                  + gap_us x (number of kernels)
    attention   = attention_scale x row + attention_us, and at least
                  slowdown x (bytes / the device's bandwidth)
    slowdown    = attention_slowdown x (head_dim / 128)^head_dim_power, and at most
                  attention_filled x (1 + attention_blocks / (sequences x key-value heads))

A block of threads reads one head of one sequence, and the device runs `attention_blocks` of them at
once: the last round is partly empty, which costs up to one round more. Which constant scales a
kernel is a field of its kind (`correction`).

**Whole operators.** `flashnas validate --calibrate` finds what whole models cost beyond the sum of
their rows:

    time = scale x (rows) + operator_us x (operators) + model_us + mb_us x (megabytes of weights and
    state)

Constants are at least 0, but for operator_us in the mode cuda_graph: operators that were timed
alone start and end alone, whereas in a model the start of one hides behind the end of the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.hints import did_you_mean, one_of
from flashnas.base.schema import convert
from flashnas.base.yaml import LocatedDict
from flashnas.latency.bounded_time import SOURCE_SPREAD, BoundedTime, around
from flashnas.latency.schema import EARLIER_MODES, MODES, RUNTIMES
from flashnas.operators import KernelCall, Phase
from flashnas.operators.kernel import PHASES

Stack = Literal["fused", "unfused"]
STACKS: tuple[Stack, ...] = get_args(Stack)
HEAD_DIM = 128  # for which attention_slowdown is stated
MIN_MODELS = 4
PARSIMONY = (
    0.9  # a further constant must bring the left-out error below this share of the error without it
)
MAX_CREDIT = 0.5  # share of a model's mean row that a negative operator_us may take off
# of the search for the operators that carry the error, relative to the mean square of the shares
RIDGE = 0.01
SPREAD = SOURCE_SPREAD["derived"]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The fields of a subclass are its constants; their defaults correct nothing."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(each.name for each in fields(cls))

    @classmethod
    def read(cls, *entries: Mapping[str, Any]) -> Self:
        """From mappings that `check_calibration` has seen; a later entry overrides."""
        return cls(
            **{
                name: float(entry[name])
                for entry in entries
                for name in cls.names()
                if name in entry
            }
        )

    def to_dict(self) -> dict[str, float]:
        return {name: round(float(getattr(self, name)), 5) for name in self.names()}


def choose_stack(calibration: Mapping[str, Any], stack: str | None) -> Stack:
    """`stack`, else the one that the calibration names, else fused; raises ConfigError for an
    unknown one.
    """
    chosen = stack or calibration.get("stack", "fused")
    if chosen not in STACKS:
        raise ConfigError(one_of("stack", chosen, STACKS))
    return chosen


@dataclass(frozen=True, kw_only=True)
class KernelCorrection(Correction):
    """Applied to the kernels of a decode step, as stated above. attention_scale 0: as `scale`;
    attention_slowdown 0: no such bound; others 0: not known. width: of the bounds, as a share of
    what the correction adds. batched: how many times as long as estimated a step of several
    sequences took where it was measured; it widens the upper bound alone."""

    scale: float = 1.0
    attention_scale: float = 0.0
    gap_us: float = 0.0
    attention_us: float = 0.0
    attention_slowdown: float = 0.0
    head_dim_power: float = 0.0
    attention_filled: float = 0.0
    attention_blocks: float = 0.0
    width: float = 0.0
    batched: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any], stack: Stack = "fused") -> KernelCorrection:
        return cls.read(calibration, calibration.get(stack, {}))

    def attention(self, time_us: float, bytes_us: float, head_dim: int, pairs: int) -> float:
        """Microseconds of an attention kernel in a whole model, from those of its row and of its
        bytes at the device's bandwidth. pairs: sequences x key-value heads."""
        slowdown = self.attention_slowdown * (head_dim / HEAD_DIM) ** self.head_dim_power
        if self.attention_filled:
            slowdown = min(slowdown, self.attention_filled * (1 + self.attention_blocks / pairs))
        return max(
            (self.attention_scale or self.scale) * time_us + self.attention_us, slowdown * bytes_us
        )

    def added(
        self,
        calls: Sequence[KernelCall],
        times: Sequence[BoundedTime],
        batch: int,
        bytes_us: Callable[[KernelCall], float],
    ) -> BoundedTime | None:
        """What the correction adds to one decode step of these kernels; None if nothing. bytes_us:
        what the bytes of a kernel take at the device's bandwidth."""
        us = self.gap_us * len(times)
        for call, time in zip(calls, times, strict=True):
            if call.kind.correction == "attention_scale":
                us += self.attention(time.us, bytes_us(call), *heads(call, batch)) - time.us
            elif call.kind.correction:
                us += (self.scale - 1) * time.us
        more = (
            max(self.batched - 1, 0) * (us + sum(time.us for time in times)) if batch != 1 else 0.0
        )
        if not us and not more:
            return None
        added = around(us, self.width)
        return replace(added, upper_us=added.upper_us + more)

    def note(self, batch: int) -> str | None:
        """What a reader of an estimate for `batch` sequences has to know."""
        if batch == 1 or self.batched <= 1:
            return None
        return (
            "a step of several sequences is calibrated on one engine, whose attention is slower"
            " than the"
            f" kernels of this table; it took up to {self.batched:g} times as long as estimated"
            " where it"
            " was measured: take throughput as a ranking"
        )


def heads(call: KernelCall, batch: int) -> tuple[int, int]:
    """Of an attention kernel: size of a head, sequences x key-value heads."""
    shape = dict(call.shape)
    return int(shape.get("head_dim", HEAD_DIM)), batch * int(shape.get("kv_heads", 1))


@dataclass(frozen=True, kw_only=True)
class ModelCorrection(Correction):
    """Of one mode and phase."""

    scale: float = 1.0
    operator_us: float = 0.0
    model_us: float = 0.0
    mb_us: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any], mode: str, phase: Phase) -> ModelCorrection:
        return cls.read(calibration.get("whole", {}).get(mode, {}).get(phase, {}))

    def added(self, *, operators: int, models: int, megabytes: float) -> BoundedTime | None:
        """What the correction adds to `scale` times the row; None if nothing. operators: 1 with the
        row of an operator, else 0. models: 1 with the row that every model has once, else 0."""
        us = self.operator_us * operators + self.model_us * models + self.mb_us * megabytes
        return around(us, SPREAD) if us else None


CONSTANTS = ModelCorrection.names()


@dataclass(frozen=True, kw_only=True)
class Regressors:
    """One model in one phase: what the constants multiply, and the measured time. by_kind_us:
    operator -> its part of rows_us."""

    rows_us: float
    operators: int
    megabytes: float
    measured_us: float
    by_kind_us: dict[str, float] = field(default_factory=dict)


def fit(models: list[Regressors], mode: str = "") -> ModelCorrection:
    """Least squares of the relative error with as few constants as the models left out justify, at
    least 0 each; in the mode cuda_graph operator_us may be negative, down to MAX_CREDIT of the mean
    row of a model. Raises TableError below 4 models."""
    if len(models) < MIN_MODELS:
        raise TableError(f"calibration needs at least {MIN_MODELS} whole models; got {len(models)}")
    min_us = 0.0
    if mode == "cuda_graph":  # its rows are of operators alone
        min_us = -MAX_CREDIT * min(model.rows_us / model.operators for model in models)
    x = _relative(models)
    values = map(float, _solve(x, _choose(x, min_us), min_us))
    return ModelCorrection(**dict(zip(CONSTANTS, values, strict=True)))


def _relative(models: list[Regressors]) -> np.ndarray:
    """What the constants multiply, as shares of the measured times, shape [models, 4]."""
    return np.array(
        [
            np.array([model.rows_us, model.operators, 1.0, model.megabytes]) / model.measured_us
            for model in models
        ]
    )


def _choose(x: np.ndarray, min_us: float) -> tuple[int, ...]:
    best: tuple[int, ...] = ()
    best_error = _left_out_error(x, best, min_us)
    for count in range(1, len(CONSTANTS) + 1):
        tried = {
            chosen: _left_out_error(x, chosen, min_us)
            for chosen in itertools.combinations(range(len(CONSTANTS)), count)
        }
        chosen = min(tried, key=lambda key: tried[key])
        if tried[chosen] < PARSIMONY * best_error:
            best, best_error = chosen, tried[chosen]
    return best


def _solve(x: np.ndarray, chosen: tuple[int, ...], min_us: float) -> np.ndarray:
    """The constants, of which only `chosen` are fitted. min_us: of operator_us."""
    values = np.array([getattr(ModelCorrection(), key) for key in CONSTANTS])
    if chosen:
        from scipy.optimize import nnls  # slow to import; estimates do not need it

        values[list(chosen)] = 0.0
        floor = np.array([min_us if CONSTANTS[i] == "operator_us" else 0.0 for i in chosen])
        values[list(chosen)] = floor + nnls(x[:, chosen], 1 - x @ values - x[:, chosen] @ floor)[0]
    return values


def _left_out_error(x: np.ndarray, chosen: tuple[int, ...], min_us: float) -> float:
    """Root mean square error of each model under the fit to the others."""
    everyone = np.arange(len(x))
    shares = np.array([x[i] @ _solve(x[everyone != i], chosen, min_us) for i in everyone])
    return float(np.sqrt(np.mean(np.square(shares - 1))))


def kinds_of_error(
    models: list[Regressors], correction: ModelCorrection
) -> dict[str, dict[str, float]]:
    """Which operators cause the error: operator -> own_error, the relative error of its own time
    that explains the residuals best (ridge regression); share, its mean share of the time; carries,
    their product."""
    names = sorted({kind for model in models for kind in model.by_kind_us})
    if not names:
        return {}
    y = np.array([model.measured_us for model in models])
    shares = (
        np.array([[model.by_kind_us.get(name, 0.0) for name in names] for model in models])
        / y[:, None]
    )
    residual = 1 - _relative(models) @ [getattr(correction, key) for key in CONSTANTS]
    ridge = RIDGE * len(models) * np.square(shares).mean()
    own = np.linalg.solve(shares.T @ shares + ridge * np.eye(len(names)), shares.T @ residual)
    mean = shares.mean(0)
    return {
        name: {
            "own_error": float(own[i]),
            "share": float(mean[i]),
            "carries": float(own[i] * mean[i]),
        }
        for i, name in sorted(enumerate(names), key=lambda pair: -abs(own[pair[0]] * mean[pair[0]]))
    }


# -- what meta.yaml may hold -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _StackEntry(KernelCorrection):
    """The constants, and the relative errors of models that they were not fitted to."""

    left_out_mean_error: float = 0.0
    left_out_max_error: float = 0.0
    left_out_throughput_mean_error: float = 0.0
    left_out_throughput_max_error: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _CalibrationEntry(_StackEntry):
    stack: Stack = "fused"
    fused: Mapping[str, Any] = field(default_factory=dict)
    unfused: Mapping[str, Any] = field(default_factory=dict)
    fitted_on: str = ""
    reproduce: str = ""
    whole: Mapping[str, Any] = field(default_factory=dict)


def check_calibration(calibration: LocatedDict) -> None:
    """Raise TableError, with file, line and rule, for a wrong key or value."""
    for name, entry, kind, signed in _entries(calibration):
        convert(entry, kind, error=TableError, name=name, closed=True)
        for key, value in entry.items():
            if isinstance(value, int | float) and value < 0 and key not in signed:
                raise TableError(
                    f"{entry.place(key)}: {name}.{key} must be a number of at least 0; got"
                    f" {value!r}"
                )


def _entries(calibration: LocatedDict) -> Iterator[tuple[str, LocatedDict, Any, tuple[str, ...]]]:
    """(name, mapping, its class, keys of any sign), each after the mapping around it was
    checked.
    """
    yield "calibration", calibration, _CalibrationEntry, ()
    for stack in STACKS:
        if stack in calibration:
            yield f"calibration.{stack}", calibration[stack], _StackEntry, ()
    whole = calibration.get("whole", LocatedDict())
    modes = *MODES, *EARLIER_MODES, *(name for name in RUNTIMES if name != "torch")
    allowed = (*modes, "workload", "fitted_on")
    for key, value in whole.items():
        name = f"calibration.whole.{key}"
        if key not in allowed:
            raise TableError(
                f"{whole.place(key)}: calibration.whole has no key"
                f" {key!r}{did_you_mean(key, allowed)}; allowed: {', '.join(allowed)}"
            )
        kind: Any = {"workload": str, "fitted_on": list[str]}.get(key, dict[str, dict[str, float]])
        convert(value, kind, whole.place(key), TableError, name=name)
        for phase in value if key not in ("workload", "fitted_on") else ():
            if phase not in PHASES:
                raise TableError(
                    f"{value.place(phase)}: {one_of(f'a key of {name}', phase, PHASES)}"
                )
            signed = ("operator_us",) if key == "cuda_graph" else ()
            yield f"{name}.{phase}", value[phase], ModelCorrection, signed
