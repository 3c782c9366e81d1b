"""Simulated annealing (Kirkpatrick, Gelatt and Vecchi 1983) over the mutations of a search
space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from flashnas.base.errors import ConfigError
from flashnas.samplers import Sampler, Trial
from flashnas.samplers.sampler import check_whole


class Annealing(Sampler):
    """Walks from one candidate to a mutant of it. A better mutant is always accepted, a worse one
    with the probability exp(-increase / temperature).

    The first `initial` candidates are random, and the walk starts at the best of them. Infeasible
    and failed candidates are never accepted. With goals, the energy of a candidate is the mean over
    the objectives of the share of known candidates that are better in it, which needs no weights
    between nats and milliseconds.

    Args:
        initial: number of random candidates at the start.
        temperature: in nats (a share of candidates with goals); falls by `cooling` with each
            complete candidate.
        cooling: factor of the temperature, above 0 and at most 1.
    """

    name = "annealing"

    def __init__(
        self, *, initial: int = 6, temperature: float = 0.1, cooling: float = 0.9, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.initial = check_whole("annealing: initial", initial, 1)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"annealing: temperature must be above 0; got {temperature!r}")
        if not 0 < cooling <= 1:
            raise ConfigError(f"annealing: cooling must be above 0 and at most 1; got {cooling!r}")
        self.temperature, self.cooling = float(temperature), float(cooling)
        self.current: Trial | None = None

    def _propose(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield self.draw_fresh(self._draw)

    def _draw(self) -> Any:
        if self.current is None or len(self.complete()) < self.initial:
            return self.space.sample(self.rng)
        return self.space.mutate(self.current.genotype, self.rng)

    def _learn(self, trial: Trial) -> None:
        if not trial.complete:
            return
        if self.current is None:
            self.current = trial
            return
        increase = self._energy(trial) - self._energy(self.current)
        known = len(self.complete())
        temperature = self.temperature * self.cooling ** (known - self.initial)
        walking = known > self.initial
        if increase <= 0 or (
            walking and self.rng.random() < math.exp(-increase / max(temperature, 1e-12))
        ):
            self.current = trial

    def _energy(self, trial: Trial) -> float:
        if self.goals is None:
            return trial.point[0]
        points = np.array([known.point for known in self.complete()])
        return float((points < trial.point).mean())
