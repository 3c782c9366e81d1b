"""The experts of a mixture as one fused call: routing, products, activation and combination."""

import math
from dataclasses import dataclass
from typing import Any

from flashnas.operators.kernel import Asked, KernelCall, Rule, Times


def experts_hit(experts: Any, active: Any, rows: Any) -> Any:
    """Experts that at least one of `rows` tokens chooses, if each chooses `active` of them
    evenly.
    """
    return experts * (1 - (1 - active / experts) ** rows)


def expert_numbers(call: KernelCall) -> Any:
    """Numbers in the matrices of one expert: 3 of SwiGLU, 2 without a gate."""
    return call["matrices"] * call["hidden"] * call["inner"]


def expert_bytes(call: KernelCall, rows: float, size: float) -> Any:
    """Weights of the distinct experts; inputs, outputs and what the products leave in between."""
    hit = experts_hit(call["experts"], call["active"], rows)
    between = call["active"] * (call["matrices"] * call["inner"] + call["hidden"])
    return size * (hit * expert_numbers(call) + 2 * rows * (call["hidden"] + between))


@dataclass(frozen=True)
class NearestExperts(Rule):
    """Experts of sizes or numbers that were not measured: the nearest measured ones of about as
    many weights, times the ratio of `start_us` + bytes / bandwidth + operations / peak."""

    start_us: float = 30.0
    spread: float = 0.15
    upper: float = 0.20

    def apply(self, times: Times, asked: Asked) -> Any:
        call, columns = asked.call, asked.call.kind.matched

        def distance(shape: tuple[int, ...]) -> float:
            return sum(abs(math.log(call[columns[i]] / size)) for i, size in enumerate(shape))

        for shape in sorted(times.measured(call.kind, asked.phase), key=distance):
            other = call.resized(**dict(zip(columns, shape, strict=True)))
            inner = call["inner"] * expert_numbers(call) / expert_numbers(other)
            near, time = times.inside(asked.about(other.resized(inner=inner)))
            if time is not None:
                ratio = self._sum(times, asked).us / self._sum(times, near).us
                return time.times(ratio).derived(self.spread, upper=self.upper)
        return self._sum(times, asked).derived(0.0, upper=0.2)

    def _sum(self, times: Times, asked: Asked) -> Any:
        call, rows = asked.call, asked.rows
        moved = expert_bytes(call, rows, times.weight_bytes)
        time = times.moving(moved, rows * call.kind.flops(call, 0))
        return time.times(1 + self.start_us / time.us)
