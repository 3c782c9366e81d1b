"""The parts of an estimate: the time of each kernel in each phase, and the figures that they add up
to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.latency import metrics
from flashnas.latency.bounded_time import BoundedTime, around
from flashnas.latency.calibration import Calibration
from flashnas.latency.workload import Workload
from flashnas.operators import Phase
from flashnas.operators.kernel import PHASES

EMBEDDING, HEAD, HOST = "embedding", "head", "engine"


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel, or a whole operator, in one phase, over the whole request."""

    phase: Phase
    kernel: str
    label: str
    total: BoundedTime


@dataclass(frozen=True, slots=True)
class Cost:
    """An operator, the embedding or the head: microseconds over the whole request."""

    parts: tuple[Part, ...]
    prefill_us: float
    decode_us: float

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Cost:
        parts = tuple(parts)
        prefill, decode = (
            sum(part.total.us for part in parts if part.phase == phase)
            for phase in ("prefill", "decode")
        )
        return cls(parts, prefill, decode)


Named = tuple[str, int, Cost]  # operator, its index or -1


@dataclass(slots=True)
class Request:
    """The times of one request: what its parts add up to under a calibration."""

    calibration: Calibration
    workload: Workload
    prefill_us: float
    decode_us: float

    @classmethod
    def of(cls, calibration: Calibration, workload: Workload, costs: Iterable[Cost]) -> Request:
        prefill_us = decode_us = 0.0
        for cost in costs:
            prefill_us += cost.prefill_us
            decode_us += cost.decode_us
        return cls(calibration, workload, prefill_us, decode_us)

    @property
    def ttft_ms(self) -> float:
        """What the host adds is of a step, and the same in one that reads a prompt."""
        return self.calibration.step_us(self.prefill_us) / 1000

    @property
    def tpot_ms(self) -> float:
        generated = self.workload.generated_tokens
        return self.calibration.step_us(self.decode_us / generated) / 1000 if generated else 0.0

    @property
    def latency_ms(self) -> float:
        return metrics.latency_ms(self.ttft_ms, self.tpot_ms, self.workload.generated_tokens)

    def host(self) -> Cost:
        """What the calibration adds to the steps of a whole model."""
        if not self.calibration.host_us and self.calibration.step_scale == 1:
            return Cost.of(())
        totals = (self.ttft_ms, self.tpot_ms * self.workload.generated_tokens)
        rows = (self.prefill_us, self.decode_us)
        return Cost.of(
            Part(phase, "calibration", "host and gaps", around(1000 * ms - us, 0.0))
            for phase, ms, us in zip(PHASES, totals, rows, strict=True)
            if us
        )

    def figures(
        self, named: Sequence[Named], batch: int
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        """The metrics that are times and rates, and the interval of each."""
        w, calibration = self.workload, self.calibration
        steps = max(w.generated_tokens, 1)
        times = [(part.phase, part.kernel, part.total) for *_, cost in named for part in cost.parts]
        width = calibration.half_width_of(self.tpot_ms, batch)
        ttft = calibration.interval(times, "prefill", 1000 * self.ttft_ms, width)
        tpot = calibration.interval(times, "decode", 1000 * self.tpot_ms * steps, width)
        values, low, high = (
            metrics.of_times(ttft_ms, tpot_ms, batch, w.prompt_tokens, w.generated_tokens)
            for ttft_ms, tpot_ms in (
                (self.ttft_ms, self.tpot_ms),
                (ttft[0] / 1000, tpot[0] / 1000 / steps),
                (ttft[1] / 1000, tpot[1] / 1000 / steps),
            )
        )
        return values, {name: sorted((low[name], high[name])) for name in values}


def breakdown(named: Iterable[Named], latency_ms: float) -> list[dict[str, Any]]:
    """One entry for each part, as Estimate states them."""
    return [
        {
            "operator": name,
            "index": index,
            "phase": part.phase,
            "kernel": part.kernel,
            "label": part.label,
            "source": part.total.source,
            "ms": part.total.us / 1000,
            "share": part.total.us / 1000 / latency_ms,
        }
        for name, index, cost in named
        for part in cost.parts
    ]
