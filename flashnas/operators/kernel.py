"""What is known of a kernel: its kind, one launch of it, and the rules that answer for rows that
were not measured."""

from __future__ import annotations

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
        """The name of the kind's rows in a table, and of a kernel in a breakdown: `conv_decode`,
        `gemm`.
        """
        return self.name if self.decode == self.prefill else f"{self.name}_{phase}"

    def call(
        self, label: str, *, fusable: bool = False, unfused: tuple[int, ...] = (), **shape: int
    ) -> KernelCall:
        """One launch of this kind; raises OperatorError if the sizes are not those of `shape`."""
        if set(shape) != set(self.shape):
            raise OperatorError(
                f"kernel {label!r} of kind {self.name} needs the sizes"
                f" {', '.join(self.shape)}; got {', '.join(shape) or 'none'}"
            )
        return KernelCall(
            self, tuple((name, shape[name]) for name in self.shape), label, fusable, unfused
        )

    def __repr__(self) -> str:
        return f"KernelKind({self.name!r})"


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One kernel that an operator launches, by its static shape; batch, tokens and context come
    from the workload.

    `fusable` marks a pointwise kernel that an optimised engine folds into a neighbour. `unfused`:
    the first size (n, channels, elements) of each kernel that a framework without fusion launches
    instead; empty: this one.
    """

    kind: KernelKind
    shape: tuple[tuple[str, Any], ...]
    label: str
    fusable: bool = False
    unfused: tuple[int, ...] = ()

    def split(self) -> tuple[KernelCall, ...]:
        """The kernels of a framework without fusion."""
        if not self.unfused:
            return (self,)
        (name, _), *others = self.shape
        return tuple(
            KernelCall(self.kind, ((name, size), *others), self.label) for size in self.unfused
        )

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

    def answer(self, asked: Asked) -> Any:
        """By rows, else by the rules of the kind."""

    def by_rows(self, asked: Asked) -> Any:
        """By rows only; None if there are none of these matched values."""

    def measured(self, kind: KernelKind, phase: Phase) -> list[tuple[int, ...]]:
        """The measured values of the kind's `matched` columns, ascending."""

    def moving(self, bytes_moved: float) -> Any:
        """The time of a kernel that the bandwidth alone limits."""


@dataclass(frozen=True)
class Rule:
    """How a time that no row states follows from rows. The text and the arithmetic read the same
    constants.
    """

    def text(self) -> str:
        """One line for `flashnas table info`."""
        raise NotImplementedError

    def apply(self, times: Times, asked: Asked) -> Any:
        """The time, or None where the rule does not apply."""
        raise NotImplementedError
