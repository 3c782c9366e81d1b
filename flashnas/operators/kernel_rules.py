"""The rules by which a time that no row of a latency table states follows from rows that are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flashnas.operators.kernel import PHASES, Asked, KernelCall, KernelKind, Load, Phase, Rule, Times


@dataclass(frozen=True)
class NextLarger(Rule):
    """A matched size that was not measured."""

    column: str
    spread: float = 0.20

    def text(self) -> str:
        return f"a {self.column} that was not measured: the next larger one (+-{self.spread:.0%})"

    def apply(self, times: Times, asked: Asked) -> Any:
        kind, size = asked.call.kind, asked.call[self.column]
        place = kind.matched.index(self.column)
        known = {values[place] for values in times.measured(kind, asked.phase)}
        larger = min((value for value in known if value > size), default=None)
        if size in known or larger is None:
            return None
        return times.answer(asked.about(asked.call.resized(**{self.column: larger}))).derived(self.spread)


@dataclass(frozen=True)
class FullAttention(Rule):
    """A window that was not measured. In a prefill the time grows with the scores of a window that slides over all
    tokens, against those of its first fill."""

    spread: float = 0.30

    def text(self) -> str:
        return (f"a window that was not measured: full attention over min(context, window) tokens"
                f" (+-{self.spread:.0%})")

    def apply(self, times: Times, asked: Asked) -> Any:
        window = asked.call["window"]
        if not window:
            return None
        time = times.by_rows(replace(asked, call=asked.call.resized(window=0), seen=asked.seen.clip(max=window)))
        if time is None or asked.seen.max() <= window:
            return time
        if asked.phase == "prefill":
            first = window * (window + 1) / 2
            time = time.times((first + (asked.tokens - window) * window) / first)
        return time.derived(self.spread)


@dataclass(frozen=True)
class SameState(Rule):
    """A recurrent kernel by rows of another state: the kind's own, else those of the kind `of`. The measured state
    whose size is nearest answers, with as many heads as give the same bytes. `chunk_factor`: how many times as long a
    prefill takes as one of `of`."""

    of: KernelKind | None = None
    step_spread: float = 0.30
    chunk_spread: float = 0.50
    chunk_factor: float = 1.0

    def text(self) -> str:
        if self.of is None:
            return (f"a state that was not measured: as many heads of the nearest one as give the same bytes (step"
                    f" +-{self.step_spread:.0%}, prefill +-{self.chunk_spread:.0%})")
        factor = f" (a prefill {self.chunk_factor:g} times as long)" if self.chunk_factor != 1 else ""
        return (f"a state that was not measured: the kind's own nearest one, else that of {self.of.name}{factor}, with"
                f" as many heads as give the same bytes (step +-{self.step_spread:.0%}, prefill"
                f" +-{self.chunk_spread:.0%})")

    def apply(self, times: Times, asked: Asked) -> Any:
        call = asked.call
        size = call["key_dim"] * call["value_dim"]
        for kind in (call.kind, self.of):
            measured = times.measured(kind, asked.phase) if kind else []
            if kind is None or not measured:
                continue
            key_dim, value_dim = min(measured, key=lambda state: _ratio(state[0] * state[1], size))
            heads = call["heads"] * call["key_dim"] * call["value_dim"] / (key_dim * value_dim)
            other = call.resized(heads=heads, key_dim=key_dim, value_dim=value_dim)
            time = times.by_rows(asked.about(replace(other, kind=kind)))
            if kind is self.of and asked.phase == "prefill" and self.chunk_factor != 1:
                time = time.times(self.chunk_factor)
            return time.derived(self.step_spread if asked.phase == "decode" else self.chunk_spread)
        return None


@dataclass(frozen=True)
class Steps(Rule):
    """A short prefill without a chunk kernel as decode steps, which take longer than it does."""

    longest: int = 512
    spread: float = 0.90

    def text(self) -> str:
        return f"no prefill measured: up to {self.longest} tokens as decode steps (-{self.spread:.0%})"

    def apply(self, times: Times, asked: Asked) -> Any:
        if asked.phase == "decode" or asked.tokens > self.longest:
            return None
        step = replace(asked, phase="decode", seen=asked.seen.clip(max=1), rows=asked.batch)
        return times.answer(step).times(asked.tokens).derived(self.spread, upper=0.0)


@dataclass(frozen=True)
class AsCall(Rule):
    """A kernel as another one. `other`: (call, rows) -> the call that replaces it, and the rows that it works on."""

    words: str
    other: Callable[[KernelCall, float], tuple[KernelCall, float]]
    phases: tuple[Phase, ...] = PHASES
    spread: float = 0.0
    upper: float | None = None

    def text(self) -> str:
        upper = self.spread if self.upper is None else self.upper
        return f"{self.words} ({f'+-{upper:.0%}' if upper == self.spread else f'-{self.spread:.0%}, +{upper:.0%}'})"

    def apply(self, times: Times, asked: Asked) -> Any:
        if asked.phase not in self.phases:
            return None
        call, rows = self.other(asked.call, asked.rows)
        return times.answer(replace(asked, call=call, rows=rows)).derived(self.spread, upper=self.upper)


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
