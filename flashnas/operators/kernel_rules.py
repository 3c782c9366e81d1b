"""The rules by which a time that no row of a latency table states follows from rows that are
there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flashnas.operators.kernel import (
    PHASES,
    Asked,
    KernelCall,
    KernelKind,
    Load,
    Phase,
    Rule,
    Times,
)


@dataclass(frozen=True)
class NextLarger(Rule):
    """A matched size that was not measured. It takes at most as long as the next larger one, and at
    least in proportion to the sizes."""

    column: str
    spread: float = 0.25
    upper: float = 0.60

    def text(self) -> str:
        return (
            f"a {self.column} that was not measured: the next larger one (from {self.spread:.0%}"
            f" below proportion to +{self.upper:.0%})"
        )

    def apply(self, times: Times, asked: Asked) -> Any:
        kind, size = asked.call.kind, asked.call[self.column]
        place = kind.matched.index(self.column)
        known = {values[place] for values in times.measured(kind, asked.phase)}
        larger = min((value for value in known if value > size), default=None)
        if size in known or larger is None:
            return None
        time = times.answer(asked.about(asked.call.resized(**{self.column: larger})))
        return time.derived(1 - (1 - self.spread) * size / larger, upper=self.upper)


@dataclass(frozen=True)
class FullAttention(Rule):
    """A window that was not measured. A decode step: full attention over the tokens of the window;
    a kernel that does not skip the others takes up to as long as over all. A prefill: full
    attention over all tokens, times the share of the scores that is left, where each query has
    `edge` keys more than the window: tiles that the window cuts, and what a query costs without any
    keys."""

    edge: int = 512
    spread: float = 0.60
    upper: float = 0.80

    def text(self) -> str:
        return (
            "a window that was not measured: a decode step as full attention over min(context,"
            " window) tokens (up to all of them), a prefill as full attention times the share of"
            f" scores that window + {self.edge} keep (-{self.spread:.0%}, +{self.upper:.0%})"
        )

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

    def text(self) -> str:
        nearest = "as many heads of the nearest one as give the same bytes"
        if self.of:
            factor = (
                f" (a prefill {self.chunk_factor:g} times as long)"
                if self.chunk_factor != 1
                else ""
            )
            others = ", else ".join(kind.name for kind in self.of)
            nearest = (
                f"the kind's own nearest one, else that of {others}"
                f"{factor}, with as many heads as give the same bytes"
            )
        return (
            f"a state that was not measured: {nearest} (step +-{self.step_spread:.0%}, prefill"
            f" -{self.chunk_spread:.0%}, +{self.chunk_upper:.0%})"
        )

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
class Steps(Rule):
    """A short prefill without rows of a chunk kernel, which moves the state once for each chunk of
    its tokens."""

    longest: int = 512
    chunk: int = 64
    steps: float = 2.0
    spread: float = 0.65
    upper: float = 4.0

    def text(self) -> str:
        return (
            f"no prefill measured: up to {self.longest} tokens as {self.steps:g} decode steps for"
            f" each begun chunk of {self.chunk} tokens, and as many once (-{self.spread:.0%},"
            f" +{self.upper:.0%})"
        )

    def apply(self, times: Times, asked: Asked) -> Any:
        if asked.phase == "decode" or asked.tokens > self.longest:
            return None
        step = replace(asked, phase="decode", seen=asked.seen.clip(max=1), rows=asked.batch)
        chunks = -(-asked.tokens // self.chunk)
        return (
            times.answer(step)
            .times(self.steps * (1 + chunks))
            .derived(self.spread, upper=self.upper)
        )


@dataclass(frozen=True)
class AsCall(Rule):
    """A kernel as another one. `other`: (call, rows) -> the call that replaces it, and the rows
    that it works on."""

    words: str
    other: Callable[[KernelCall, float], tuple[KernelCall, float]]
    phases: tuple[Phase, ...] = PHASES
    spread: float = 0.0
    upper: float | None = None

    def text(self) -> str:
        upper = self.spread if self.upper is None else self.upper
        spread = f"+-{upper:.0%}" if upper == self.spread else f"-{self.spread:.0%}, +{upper:.0%}"
        return f"{self.words} ({spread})"

    def apply(self, times: Times, asked: Asked) -> Any:
        if asked.phase not in self.phases:
            return None
        call, rows = self.other(asked.call, asked.rows)
        return times.answer(replace(asked, call=call, rows=rows)).derived(
            self.spread, upper=self.upper
        )


@dataclass(frozen=True)
class Roofline(Rule):
    """The bytes that the kernel moves, at the bandwidth that pointwise kernels reach."""

    def text(self) -> str:
        return "launch_us + bytes / (bandwidth_share x bandwidth), source roofline"

    def apply(self, times: Times, asked: Asked) -> Any:
        load = Load(asked.phase, asked.batch, asked.tokens, float(asked.seen.mean()))
        return times.moving(asked.call.kind.bytes_moved(asked.call, load, times.dtype_bytes))


def _ratio(a: float, b: float) -> float:
    """How far apart two sizes are, as a factor of at least 1."""
    return max(a / b, b / a)
