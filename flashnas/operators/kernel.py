"""What is known of a kernel: its kind, one launch of it, and the rules that answer for rows that
were not measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

from flashnas.base.errors import OperatorError

Phase = Literal["prefill", "decode"]
Correction = Literal["scale", "attention", ""]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Load:
    """How much one launch works on: `tokens` of each of `batch` sequences (1 in a decode step),
    which see `context` tokens, themselves included."""

    phase: Phase
    batch: int
    tokens: int
    context: float

    @property
    def rows(self) -> int:
        """Positions of all sequences together."""
        return self.batch * self.tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelKind:
    """One kind of kernel.

    Args:
        name: registered name. Rows are in `<name>_<phase>.parquet`, or in `<name>.parquet` where
            both phases have the same columns.
        shape: names of the sizes that a call states, in order.
        decode: key columns of the rows, in file order; empty: no rows. A column is one of
            `shape`, or `batch`, `tokens` (of each sequence, in a prefill), `context` (tokens seen
            in a decode step) or `m` (batch x tokens). Times are interpolated in log space along
            these columns.
        prefill: the same of a prefill.
        matched: columns that are not interpolated: only rows with the call's value answer.
        between: two of `matched` (heads and key/value heads) for which the times of measured
            neighbours are mixed.
        strict: rows answer within the measured sizes alone, and the rules beyond.
        grow: the column along which cells that were not measured are inferred, in proportion.
        tokens_power: from the matched values, how the time of a prefill grows with tokens beyond
            the grid (1 or 2).
        rules: tried in this order when no row answers.
        written: values per token that a kernel leaves behind for the next one.
        workspace_bytes: bytes per token that a kernel needs beside its output while it reads a
            prompt.
        bytes_moved: bytes that one launch has to read and write at least, from the call, the Load
            and the bytes of one activation.
        weights: numbers in the weight of a call, which an engine may keep in another type than the
            activations: a table may have rows of the kind in that type; None: the kind has no such
            weight.
        flops: of one token that sees `context` tokens; a multiply-add is 2.
        cache_bytes: per sequence after `context` tokens, from the bytes of one activation.
        correction: which constants of a calibration the kernel takes (latency/calibration.py); "":
            none.
    """

    name: str
    shape: tuple[str, ...]
    decode: tuple[str, ...] = ()
    prefill: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    strict: bool = False
    grow: str = "batch"
    tokens_power: Callable[[dict[str, int]], int] = field(default=lambda matched: 1)
    rules: tuple[Rule, ...] = ()
    written: Callable[[KernelCall], int]
    workspace_bytes: Callable[[KernelCall], int] = field(default=lambda call: 0)
    bytes_moved: Callable[[KernelCall, Load, int], float]
    weights: Callable[[KernelCall], int] | None = None
    flops: Callable[[KernelCall, float], float] = field(default=lambda call, context: 0)
    cache_bytes: Callable[[KernelCall, int, int], int] = field(
        default=lambda call, context, size: 0
    )
    correction: Correction = "scale"

    def columns(self, phase: Phase) -> tuple[str, ...]:
        """Key columns of the rows of a phase."""
        return self.decode if phase == "decode" else self.prefill

    def rows_name(self, phase: Phase) -> str:
        """Of the kind's rows in a table, and of a kernel in a breakdown: `conv_decode`, `gemm`."""
        return self.name if self.decode == self.prefill else f"{self.name}_{phase}"

    def call(self, label: str, **shape: int) -> KernelCall:
        """One launch of this kind; raises OperatorError if the sizes are not those of `shape`."""
        if set(shape) != set(self.shape):
            raise OperatorError(
                f"kernel {label!r} of kind {self.name} needs the sizes"
                f" {', '.join(self.shape)}; got {', '.join(shape) or 'none'}"
            )
        return KernelCall(self, tuple((name, shape[name]) for name in self.shape), label)

    def __repr__(self) -> str:
        return f"KernelKind({self.name!r})"


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One kernel that an operator launches in an optimised engine, by its static shape; batch,
    tokens and context come from the workload."""

    kind: KernelKind
    shape: tuple[tuple[str, Any], ...]
    label: str

    def resized(self, **sizes: float) -> KernelCall:
        """The same call with other sizes."""
        return replace(
            self, shape=tuple((name, sizes.get(name, value)) for name, value in self.shape)
        )

    def __getitem__(self, name: str) -> Any:
        return dict(self.shape)[name]


# -- rules -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A question to a table. `seen`: numpy array of the contexts over which the mean is taken; in a
    prefill the number of tokens. `rows`: batch x tokens, or what a rule replaces it by."""

    call: KernelCall
    phase: Phase
    batch: int
    seen: Any
    rows: float

    @property
    def tokens(self) -> int:
        return 1 if self.phase == "decode" else int(self.seen[0])

    def about(self, call: KernelCall) -> Asked:
        """The same question about another call."""
        return replace(self, call=call)


class Times(Protocol):
    """What a rule may ask (latency/lookup.py). Each raises LookupFailure where nothing
    answers.
    """

    dtype_bytes: int  # of one activation
    weight_bytes: float  # of one number of a weight

    def answer(self, asked: Asked) -> Any:
        """By rows, else by the rules of the kind."""

    def by_rows(self, asked: Asked) -> Any:
        """By rows only; None if there are none of these matched values."""

    def measured(self, kind: KernelKind, phase: Phase) -> list[tuple[int, ...]]:
        """The measured values of the kind's `matched` columns, ascending."""

    def inside(self, asked: Asked) -> tuple[Asked, Any]:
        """With the nearest measured sizes, and its time; None for a cell without a row."""

    def moving(self, bytes_moved: float, flops: float = 0) -> Any:
        """The time of a kernel that the bandwidth limits, and that computes at half of the peak."""


@dataclass(frozen=True)
class Rule:
    """How a time that no row states follows from rows. `flashnas table info` prints the first sentence
    of the docstring, and the numbers among the fields."""

    def apply(self, times: Times, asked: Asked) -> Any:
        """The time, or None where the rule does not apply."""
        raise NotImplementedError


@dataclass(frozen=True)
class NextLarger(Rule):
    """A matched size that was not measured as the next larger one, and at least in proportion to the
    sizes."""

    column: str
    spread: float = 0.25
    upper: float = 0.60

    def apply(self, times: Times, asked: Asked) -> Any:
        kind, size = asked.call.kind, asked.call[self.column]
        place = kind.matched.index(self.column)
        sizes = {values[place] for values in times.measured(kind, asked.phase)}
        larger = min((other for other in sizes if other > size), default=None)
        if size in sizes or larger is None:
            return None
        time = times.answer(asked.about(asked.call.resized(**{self.column: larger})))
        return time.derived(1 - (1 - self.spread) * size / larger, upper=self.upper)


@dataclass(frozen=True)
class FullAttention(Rule):
    """A window that was not measured from full attention. A decode step: over the tokens of the
    window; a kernel that does not skip the others takes up to as long as over all. A prefill: over
    all tokens, times the share of the scores that is left, where each query has `edge` keys more
    than the window: tiles that the window cuts, and what a query costs without any keys."""

    edge: int = 512
    spread: float = 0.60
    upper: float = 0.80

    def apply(self, times: Times, asked: Asked) -> Any:
        window, tokens = asked.call["window"], asked.tokens
        if not window:
            return None
        full = replace(asked, call=asked.call.resized(window=0))
        if asked.phase == "decode":
            time, most = (
                times.by_rows(replace(full, seen=asked.seen.clip(max=window))),
                times.by_rows(full),
            )
            if time is None or asked.seen.max() <= window:
                return time
            if most is None:  # beyond the rows of full attention, which bound it
                return None
            time = time.derived(self.spread, upper=self.upper)
            return replace(time, upper_us=max(time.upper_us, most.upper_us))
        keys = min(window + self.edge, tokens)
        time = times.by_rows(full)
        if time is None or tokens <= window:
            return time
        return time.times(keys * (2 * tokens - keys) / tokens**2).derived(
            self.spread, upper=self.upper
        )


@dataclass(frozen=True)
class SameState(Rule):
    """A recurrent kernel by rows of another state: the kind's own, else those of the first of the
    kinds `of` that has some. The measured state whose size is nearest answers, with as many heads
    as give the same bytes. `chunk_factor`: how many times as long a prefill takes as one of
    `of`."""

    of: tuple[KernelKind, ...] = ()
    step_spread: float = 0.30
    chunk_spread: float = 0.65
    chunk_upper: float = 1.50
    chunk_factor: float = 1.0

    def apply(self, times: Times, asked: Asked) -> Any:
        call = asked.call
        size = call["key_dim"] * call["value_dim"]
        for kind in (call.kind, *self.of):
            measured = times.measured(kind, asked.phase)
            if not measured:
                continue
            key_dim, value_dim = min(measured, key=lambda state: _ratio(state[0] * state[1], size))
            heads = call["heads"] * call["key_dim"] * call["value_dim"] / (key_dim * value_dim)
            other = call.resized(heads=heads, key_dim=key_dim, value_dim=value_dim)
            time = times.by_rows(asked.about(replace(other, kind=kind)))
            if kind is not call.kind and asked.phase == "prefill" and self.chunk_factor != 1:
                time = time.times(self.chunk_factor)
            if asked.phase == "decode":
                return time.derived(self.step_spread)
            return time.derived(self.chunk_spread, upper=self.chunk_upper)
        return None


@dataclass(frozen=True)
class Chunks(Rule):
    """A prefill without rows: a few kernels one after another, which carry the state from chunk to
    chunk, and move the inputs and what they leave for each other (`workspace_bytes`)."""

    chunk: int = 64
    least: float = 4.5
    spread: float = 0.65
    upper: float = 1.5
    longest: float = math.inf

    def apply(self, times: Times, asked: Asked) -> Any:
        if asked.phase == "decode" or asked.tokens > self.longest:
            return None
        kind, load = asked.call.kind, Load("prefill", asked.batch, asked.tokens, asked.tokens)
        step = replace(asked, phase="decode", seen=asked.seen.clip(max=1), rows=asked.batch)
        steps = times.answer(step).times(max(-(-asked.tokens // self.chunk), self.least))
        moved = kind.bytes_moved(asked.call, load, times.dtype_bytes)
        moving = times.moving(moved + kind.workspace_bytes(asked.call) * load.rows)
        if moving.us > steps.us:
            steps = replace(moving, lower_us=moving.us, upper_us=moving.us)
        return steps.derived(self.spread, upper=self.upper)


@dataclass(frozen=True)
class AsCall(Rule):
    """A decode step as that of another kernel."""

    other: Callable[[KernelCall], KernelCall]
    upper: float

    def apply(self, times: Times, asked: Asked) -> Any:
        if asked.phase == "prefill":
            return None
        return times.answer(asked.about(self.other(asked.call))).derived(0.0, upper=self.upper)


@dataclass(frozen=True)
class Roofline(Rule):
    """The bytes that the kernel moves, at the bandwidth that pointwise kernels reach."""

    def apply(self, times: Times, asked: Asked) -> Any:
        load = Load(asked.phase, asked.batch, asked.tokens, float(asked.seen.mean()))
        return times.moving(asked.call.kind.bytes_moved(asked.call, load, times.dtype_bytes))


def _ratio(a: float, b: float) -> float:
    """How far apart two sizes are, as a factor of at least 1."""
    return max(a / b, b / a)
