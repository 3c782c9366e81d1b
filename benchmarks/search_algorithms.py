"""The search algorithms at equal trials: a made-up loss, the shipped space, the real latency of a shipped table.

Command (from the repository root, 1 to 2 minutes on one core):

    python benchmarks/search_algorithms.py

Expected (hypervolume at 60 candidates, --seeds 20): bayes 65, nsga2 48, tpe 48, random 36, aging-evolution 34, means
± 3 to 5, mostly because the problems differ. In the lowest loss: bayes, then aging-evolution, which looks at the loss
alone and so leaves the fast end of the front to chance, then the others.

No network is trained. The loss of an architecture follows the depth-width law of arXiv 2511.18890 section 2.1 plus
terms of the kind its section 2.2 finds: a quality per token mixer and third of the depth, a bonus for pairs such as
DeltaNet with Mamba2, a best share of FFNs, one attention at least. Each seed draws other coefficients, so each is
another problem. What a search sees carries noise of a short training (0.015 nats); what is scored does not.

Score: the hypervolume of the front found, in milli-nats times the share of the latency budget; the reference is the
budget and the 90th percentile of the losses of random candidates. `gain` is the paired difference from `random` with
its standard error; `best` is the lowest loss found above the lowest that any sampler found, in nats.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from flashnas.architecture import Architecture
from flashnas.latency.prediction import LatencyModel
from flashnas.search import ALGORITHMS, Evaluation, make_algorithm
from flashnas.search.pareto import hypervolume
from flashnas.space import SearchSpace, load_space

MIXERS = ("d", "a", "m2")
NOISE = 0.015  # nats: two seeds of a short training differ by 0.01 to 0.04
REFERENCE_SAMPLE = 400


class Surface:
    """A loss in nats per token for any architecture of the space, from coefficients drawn by `seed`."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 77])
        self.quality = self.rng.normal(0.0, 0.05, (3, len(MIXERS)))   # [third, mixer], lower is better
        self.pair = np.triu(self.rng.uniform(0.0, 0.15, (3, 3)), 1)   # bonus for two mixers side by side
        self.ffn_share = self.rng.uniform(0.35, 0.55)
        self.depth_exponent = self.rng.uniform(0.7, 1.1)
        self._noise: dict[Architecture, float] = {}

    def loss(self, architecture: Architecture) -> float:
        kinds = [spec.kind for spec in architecture.operators]
        mixers = [MIXERS.index(kind) for kind in kinds if kind != "f"]
        thirds = [min(3 * i // len(mixers), 2) for i in range(len(mixers))]
        quality = np.mean([self.quality[third, mixer] for third, mixer in zip(thirds, mixers, strict=True)])
        pairs = [self.pair[min(a, b), max(a, b)] for a, b in itertools.pairwise(mixers)]
        share = 1 - len(mixers) / len(kinds)
        size = 3.0 * len(kinds) ** -self.depth_exponent + 60.0 * architecture.hidden ** -0.75
        attention = 0.08 * (MIXERS.index("a") not in mixers)
        return float(2.5 + size + quality - np.mean(pairs or [0.0]) + 1.5 * (share - self.ffn_share) ** 2 + attention)

    def noisy(self, architecture: Architecture) -> float:
        """The loss as one short training sees it; the same for the same architecture."""
        if architecture not in self._noise:
            own = np.random.default_rng([int(architecture.hash[:8], 16), 5])
            self._noise[architecture] = float(own.normal(0.0, NOISE))
        return self.loss(architecture) + self._noise[architecture]


def make_fitter(space: SearchSpace, model: LatencyModel, budget_ms: float) -> Callable[[Any], Any]:
    """`latency_of`: the largest width within the budget, its exact latency; remembered over all searches."""
    memory: dict[Any, Any] = {}

    def latency_of(genotype: Any) -> tuple[Architecture | None, float | None]:
        if genotype not in memory:
            widths = [space.architecture(genotype, hidden) for hidden in space.hidden_sizes]
            times = model.latencies(widths)
            fitting = [i for i, ms in enumerate(times) if ms <= budget_ms]
            memory[genotype] = (widths[fitting[-1]], float(times[fitting[-1]])) if fitting else (None, float(times[0]))
        return memory[genotype]

    return latency_of


def search(name: str, options: dict[str, Any], space: SearchSpace, latency_of: Callable[[Any], Any], surface: Surface,
           seed: int, trials: int, cycle: int) -> tuple[np.ndarray, float]:
    """True (loss, latency_ms) of all candidates [N, 2], and the seconds that the algorithm took."""
    algorithm = make_algorithm(name, space=space, seed=seed, latency_of=latency_of, cycle_size=cycle, **options)
    points, seconds = [], 0.0
    while len(points) < trials:
        started = time.perf_counter()
        asked = algorithm.ask(min(cycle, trials - len(points)))
        seconds += time.perf_counter() - started
        told = []
        for genotype in asked:
            architecture, latency_ms = latency_of(genotype)
            points.append([np.inf if architecture is None else surface.loss(architecture), latency_ms])
            told.append(Evaluation(genotype, architecture, architecture is not None, latency_ms=latency_ms,
                                   loss=None if architecture is None else surface.noisy(architecture)))
        started = time.perf_counter()
        algorithm.tell(told)
        seconds += time.perf_counter() - started
    return np.array(points), seconds


def score(points: np.ndarray, reference_loss: float, budget_ms: float) -> float:
    inside = points[(points[:, 0] < reference_loss) & (points[:, 1] < budget_ms)]
    return 1000 * hypervolume(inside / [1.0, budget_ms], [reference_loss, 1.0]) if len(inside) else 0.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=list(ALGORITHMS), metavar="NAME[:OPTION=N,...]")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--cycle", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--space", default="nemotron_flash")
    parser.add_argument("--table", default="h100_sxm")
    parser.add_argument("--workload", default="decode-8k")
    parser.add_argument("--budget-ms", type=float, default=12000.0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    space = load_space(arguments.space)
    latency_of = make_fitter(space, LatencyModel(arguments.table, arguments.workload), arguments.budget_ms)
    rng = np.random.default_rng(0)
    typical = [fitted for fitted in (latency_of(space.sample(rng))[0] for _ in range(REFERENCE_SAMPLE)) if fitted]
    checkpoints = sorted({arguments.trials // 2, arguments.trials})
    volumes: dict[str, np.ndarray] = {}
    seconds, best = {}, {}
    for text in arguments.samplers:
        name, _, rest = text.partition(":")
        options = {key: int(value) for key, _, value in (pair.partition("=") for pair in rest.split(",") if pair)}
        rows, spent, lowest = [], 0.0, []
        for seed in range(arguments.seeds):
            surface = Surface(seed)
            reference = float(np.percentile([surface.loss(architecture) for architecture in typical], 90))
            points, took = search(name, options, space, latency_of, surface, seed, arguments.trials, arguments.cycle)
            rows.append([score(points[:n], reference, arguments.budget_ms) for n in checkpoints])
            lowest.append(points[:, 0].min())
            spent += took
        volumes[text], best[text] = np.array(rows), np.array(lowest)
        seconds[text] = spent / arguments.seeds / -(-arguments.trials // arguments.cycle)
    width = max(map(len, volumes))
    head = "".join(f"   hypervolume at {n:<4}   gain on random" for n in checkpoints)
    print(f"{'sampler':{width}}{head}   best loss   s/cycle")
    baseline = volumes.get("random", np.zeros((arguments.seeds, len(checkpoints))))
    least = np.min(list(best.values()), axis=0)
    for text, rows in volumes.items():
        gains = rows - baseline
        errors = gains.std(axis=0, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.zeros(len(checkpoints))
        deviations = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(len(checkpoints))
        cells = "".join(f"   {rows[:, i].mean():9.1f} ± {deviations[i]:<7.1f}   {gains[:, i].mean():+6.1f} ± "
                        f"{errors[i]:<5.1f}" for i in range(len(checkpoints)))
        print(f"{text:{width}}{cells}   {(best[text] - least).mean():+9.3f}   {seconds[text]:7.2f}")


if __name__ == "__main__":
    main()
