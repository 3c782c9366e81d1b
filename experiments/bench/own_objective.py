"""Which Gaussian process should `bayes` be where a user's evaluator scores? Regret at equal
evaluations on networks whose losses are known.

    OMP_NUM_THREADS=1 python experiments/bench/own_objective.py      # own_objective.csv, and the table

- rows: the networks of the shipped short trainings with the losses of these. A space of the user's
  own encodes them by width, depth and the number of each operator; the latency is that of 32 times
  the width. The budget leaves out the slowest tenth.
- nemotron_flash: the paper's space within 12 s, with the losses that the model of the full loss
  expects, and noise of 0.005 nats on what a sampler is told.

Latencies are those of the table `h100_sxm` for `decode-8k`. Nothing is trained. A sampler proposes
CYCLE networks at a time and is told what they have, until it has N of them. Regret, without noise:

- loss: the lowest one found less the lowest there is, in millinats per token;
- front: the hypervolume of (loss, latency) that is missing, in percent of that of the true front.

A search that is in the file is not repeated.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna
import pandas as pd

from flashnas import loss_model
from flashnas.architecture import Architecture
from flashnas.latency.prediction import LatencyModel
from flashnas.observations.losses import full_network
from flashnas.observations.read_losses import read_short_trainings
from flashnas.samplers import SAMPLERS, Sampler, Trial
from flashnas.samplers.bayes import Bayes
from flashnas.space import SearchSpace, load_space
from flashnas.trials.pareto import non_dominated

OUT = Path(__file__).with_suffix(".csv")
TRIALS, CYCLE = (10, 20, 40), 5
COMPARED = ["random", "aging-evolution", "nsga2", "tpe", "bayes", "gpsampler"]
SEEDS = range(100, 120)  # `bayes` was written under others
WIDER = 32  # than the trained network is the one that is served
NEIGHBOURS = 8  # among which a row mutates
NOISE = 0.005
ROUNDS, BROOD = 60, 200  # of the search for the true front of nemotron_flash


class Rows(SearchSpace[int]):
    """A genotype is the number of a row."""

    def __init__(self) -> None:
        rows = read_short_trainings()
        counts = [Counter(spec.kind for spec in row.specs) for row in rows]
        shape = {"hidden": [row.hidden for row in rows], "depth": [len(row.specs) for row in rows]}
        for kind in sorted({kind for count in counts for kind in count}):
            shape[kind] = [count[kind] for count in counts]
        self.names = list(shape)
        # rows that the encoding does not tell apart are one
        self.codes, first = np.unique(np.array(list(shape.values())).T, axis=0, return_index=True)
        self.nats = np.array([rows[i].nats for i in first])
        self.full = [full_network(rows[i], WIDER * rows[i].hidden) for i in first]
        self.scaled = self.codes / np.ptp(self.codes, axis=0)
        gaps = np.abs(self.scaled[:, None] - self.scaled).sum(axis=2)
        self.near = np.argsort(gaps, axis=1, kind="stable")[:, 1 : 1 + NEIGHBOURS]

    def sample(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.nats)))

    def mutate(self, genotype: int, rng: np.random.Generator) -> int:
        return int(rng.choice(self.near[genotype]))

    def encode(self, genotype: int) -> dict[str, Any]:
        return dict(zip(self.names, self.codes[genotype].tolist(), strict=True))

    def decode(self, params: Mapping[str, Any]) -> int:
        wanted = np.array([params[name] for name in self.names]) / np.ptp(self.codes, axis=0)
        return int(np.abs(self.scaled - wanted).sum(axis=1).argmin())

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        low, high = self.codes.min(axis=0).tolist(), self.codes.max(axis=0).tolist()
        return {
            name: optuna.distributions.IntDistribution(*ends)
            for name, *ends in zip(self.names, low, high, strict=True)
        }

    def architectures(self, genotype: int) -> list[Architecture]:
        return [self.full[genotype]]

    def size(self) -> int:
        return len(self.nats)

    def enumerate(self) -> Iterator[int]:
        return iter(range(len(self.nats)))


class Problem:
    """A space, a budget and the losses of all its networks; `front`: genotypes of the true one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.latency = LatencyModel("h100_sxm", "decode-8k")
        self.fit_width = functools.cache(self._fit_width)
        if name == "rows":
            self.space: SearchSpace[Any] = Rows()
            times = self.latency.latencies(self.space.full)
            self.budget_ms = float(np.percentile(times, 90))
            typical = [i for i in self.space.enumerate() if times[i] <= self.budget_ms]
            self.front = typical
        else:
            self.space, self.budget_ms, self.model = load_space(name), 12_000.0, loss_model()
            rng = np.random.default_rng(0)
            typical = [self.space.sample(rng) for _ in range(2 * BROOD)]
            typical = [genotype for genotype in typical if self.fit_width(genotype)[0]]
            self.front = self._evolved(typical, rng)
        self.worst = float(np.median(self.losses(typical)))
        self.best = self.losses(self.front).min()
        self.whole = self.volume(self.front)

    def _fit_width(self, genotype: Any) -> tuple[Any, float]:
        networks = self.space.architectures(genotype)
        times = self.latency.latencies(networks)
        fitting = np.flatnonzero(times <= self.budget_ms)
        index = int(fitting[0]) if len(fitting) else -1
        return (networks[index] if len(fitting) else None), float(times[index])

    def losses(self, genotypes: Sequence[Any]) -> np.ndarray:
        if self.name == "rows":
            return self.space.nats[genotypes]
        networks = [self.fit_width(genotype)[0] for genotype in genotypes]
        return self.model.predict_networks(networks, "100B").mean

    def points(self, genotypes: Sequence[Any]) -> np.ndarray:
        times = [self.fit_width(genotype)[1] for genotype in genotypes]
        return np.column_stack([self.losses(genotypes), times])

    def volume(self, genotypes: Sequence[Any]) -> float:
        return moocore.hypervolume(self.points(genotypes), ref=[self.worst, self.budget_ms])

    def told(self, genotype: Any, point: np.ndarray, seed: int) -> Trial:
        if self.name != "rows":
            hashed = int(self.fit_width(genotype)[0].hash[:8], 16)
            noise = np.random.default_rng([hashed, seed]).normal(0, NOISE)
            point = point + np.array([noise, 0])
        return Trial(genotype=genotype, state="complete", values=tuple(map(float, point)))

    def _evolved(self, front: list[Any], rng: np.random.Generator) -> list[Any]:
        known = set(front)
        for _ in range(ROUNDS):
            on = non_dominated(self.points(front))
            front = [genotype for genotype, good in zip(front, on, strict=True) if good]
            for _ in range(BROOD):
                child = front[rng.integers(len(front))]
                for _ in range(rng.integers(1, 4)):
                    child = self.space.mutate(child, rng)
                if child not in known and self.fit_width(child)[0]:
                    front.append(child)
                known.add(child)
        return front


class FromPool(optuna.samplers.GPSampler):
    """Optuna's process and gain, of the networks of a pool and not of all values of an encoding."""

    pool: np.ndarray
    chosen: int

    def _optimize_acqf(self, acqf: Any, best_params: Any) -> np.ndarray:
        self.chosen = int(acqf.eval_acqf_no_grad(self.pool).argmax())
        return self.pool[self.chosen]


class GpSampler(Bayes):
    """`bayes` with its first candidates, pool and features, and Optuna's GPSampler to choose."""

    name = "gpsampler"

    def _choose(self, count: int) -> Iterator[Any]:
        points = np.array([trial.point for trial in self.complete()])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not hasattr(self, "gp"):
            self.gp = FromPool(seed=self.seed, n_startup_trials=1)
        for _ in range(count):
            pool = list(dict.fromkeys(itertools.chain(*self._pool(points))))
            study = optuna.create_study(directions=["minimize"] * points.shape[1], sampler=self.gp)
            told = [trial.genotype for trial in self.complete()]
            rows = self._scaled([*told, *self.pending, *pool])
            names = [f"x{i:03}" for i in range(rows.shape[1])]
            spread = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
            for row, point in zip(rows, points.tolist(), strict=False):
                params = dict(zip(names, row.tolist(), strict=True))
                study.add_trial(
                    optuna.create_trial(params=params, distributions=spread, values=point)
                )
            for row in rows[len(told) : len(told) + len(self.pending)].tolist():
                study.enqueue_trial(dict(zip(names, row, strict=True)))
                study.ask(spread)
            self.gp.pool = rows[len(told) + len(self.pending) :]
            study.ask(spread)
            yield pool[self.gp.chosen]


def search(problem: Problem, name: str, cls: type[Sampler], seed: int) -> Iterator[dict[str, Any]]:
    """The regrets after each of TRIALS evaluations."""
    started = time.process_time()
    sampler = cls(space=problem.space, seed=seed, fit_width=problem.fit_width, cycle_size=CYCLE)
    found: list[Any] = []
    while len(found) < max(TRIALS):
        asked = sampler.ask()
        points = problem.points(asked)
        sampler.tell(problem.told(*pair, seed) for pair in zip(asked, points, strict=True))
        found += asked
        if len(found) in TRIALS:
            yield {
                "problem": problem.name,
                "sampler": name,
                "seed": seed,
                "trials": len(found),
                "loss": round(1000 * float(problem.losses(found).min() - problem.best), 2),
                "front": round(100 * (1 - problem.volume(found) / problem.whole), 2),
                "cpu_s": round(time.process_time() - started, 1),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplers", nargs="+", default=COMPARED)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    done = (
        pd.read_csv(OUT) if OUT.exists() else pd.DataFrame(columns=["problem", "sampler", "seed"])
    )
    recorded = set(done[["problem", "sampler", "seed"]].itertuples(index=False, name=None))
    for problem in map(Problem, ("rows", "nemotron_flash")):
        for seed in SEEDS:
            for name in arguments.samplers:
                if (problem.name, name, seed) not in recorded:
                    cls = GpSampler if name == "gpsampler" else SAMPLERS[name]
                    lines = pd.DataFrame(search(problem, name, cls, seed))
                    lines.to_csv(OUT, mode="a", header=not OUT.exists(), index=False)
    lines = pd.read_csv(OUT)
    table = lines.pivot_table(
        index=["problem", "sampler"], columns="trials", values=["loss", "front", "cpu_s"]
    )
    table.columns = [f"{value} at {trials}" for value, trials in table.columns]
    print(table.sort_values(["problem", "front at 40"]).round(1).to_markdown())


if __name__ == "__main__":
    main()
