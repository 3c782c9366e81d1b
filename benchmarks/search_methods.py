"""The searches that benchmarks/search.py compares: ours, and those of other libraries behind their
public interfaces.

A peer gets the encoding of the space as categorical and whole-number parameters, is asked for
`BATCH` candidates, and is told their losses and exact latencies. A proposal outside the budget, or
of a network that is known already, costs nothing. A peer with constraints is told how far it is
outside; another one is asked again.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from search_problems import RUNGS, Problem

from flashnas.algorithms import Trial, make_algorithm
from flashnas.space import SearchSpace

# candidates that every method proposes before it learns; those of Hyperband kind are asynchronous
BATCH = 5
# proposals in a row that are known or outside the budget; then a random new one takes their place
# ..
STUCK = 40
STUCK_SLOW = 5  # .. and of methods that take about a second for each proposal
POPULATION = (
    10  # of the evolutions, random candidates before TPE models: as the defaults of flashnas
)
INITIAL = 5  # random candidates before a Gaussian process: as in `bayes`
POOL = 256  # random candidates from which BoTorch's acquisition functions choose


class Spent(Exception):
    """All tokens are used."""


@dataclass
class Meter:
    """Trains what a method proposes and counts its tokens, in parts of a training.

    tokens: one whole training has RUNGS of them. A training that was paused continues. done: parts
    that a genotype was trained for. finished: (tokens, genotype) of each whole training.
    """

    problem: Problem
    seed: int
    trainings: int
    tokens: int = 0
    done: dict[Any, int] = field(default_factory=dict)
    finished: list[tuple[int, Any]] = field(default_factory=list)

    def train(self, genotype: Any, rungs: int = RUNGS) -> float:
        """The loss after so many parts; raises Spent if that is more than is left."""
        cost = max(rungs - self.done.get(genotype, 0), 0)
        if self.tokens + cost > self.trainings * RUNGS:
            raise Spent
        self.tokens += cost
        if cost:
            self.done[genotype] = rungs
            if rungs == RUNGS:
                self.finished.append((self.tokens, genotype))
        return float(self.problem.curves([genotype])[0, rungs - 1])

    def latency_ms(self, genotype: Any) -> float:
        latency_ms = self.problem.fit_width(genotype)[1]
        assert latency_ms is not None
        return latency_ms

    def inside(self, genotype: Any) -> bool:
        return self.problem.fit_width(genotype)[0] is not None

    def fresh(self, genotype: Any) -> bool:
        return genotype not in self.done and self.inside(genotype)

    def volumes(self) -> list[float]:
        """The dominated hypervolume of all finished candidates after 1, 2, .. whole trainings'
        worth of tokens.
        """
        problem, result, points = self.problem, [], np.empty((0, 2))
        waiting = list(self.finished)
        for unit in range(1, self.trainings + 1):
            new = [genotype for tokens, genotype in waiting if tokens <= unit * RUNGS]
            waiting = waiting[len(new) :]
            if new:
                points = np.concatenate(
                    [points, np.column_stack([problem.truth(new), [*map(self.latency_ms, new)]])]
                )
            result.append(problem.volume(points))
        return result


@dataclass(frozen=True)
class Method:
    """run: spends a meter. needs: the module without which it cannot run. distribution: the package
    it is from.
    """

    name: str
    run: Callable[[Meter], None]
    needs: str = ""
    distribution: str = ""

    @property
    def ours(self) -> bool:
        return not self.distribution

    @property
    def missing(self) -> bool:
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None


# -- ours ------------------------------------------------------------------------------------------


def ours(sampler: str, **options: Any) -> Callable[[Meter], None]:
    def run(meter: Meter) -> None:
        algorithm = make_algorithm(
            sampler,
            space=meter.problem.space,
            seed=meter.seed,
            cycle_size=BATCH,
            fit_width=meter.problem.fit_width,
            **options,
        )
        idle = 0
        while idle < 20:
            told = []
            before = meter.tokens
            for genotype in algorithm.ask(BATCH):
                network, latency_ms = meter.problem.fit_width(genotype)
                trial = Trial.of(network, genotype=genotype)
                if network is not None and (loss := meter.train(genotype)) is not None:
                    trial = dataclasses.replace(trial, values=(loss, latency_ms))
                told.append(trial)
            algorithm.tell(told)
            idle = idle + 1 if meter.tokens == before else 0

    return run


# -- peers -----------------------------------------------------------------------------------------


class Proposals:
    """Turns a peer's parameters into results, and ends a row of useless proposals."""

    def __init__(self, meter: Meter, stuck: int = STUCK) -> None:
        self.meter, self.space, self.stuck = meter, meter.problem.space, stuck
        self.rng = np.random.default_rng([meter.seed, 9])
        self.useless = 0
        losses = meter.problem.curves(
            [g for g in (self.space.sample(self.rng) for _ in range(64)) if meter.inside(g)]
        )
        self.worst = float(losses[:, -1].max())

    def genotype(self, params: dict[str, Any]) -> Any:
        """Of parameters; in place of the last of too many useless ones, a random fresh one."""
        genotype = self.space.decode({name: _plain(value) for name, value in params.items()})
        self.useless = 0 if self.meter.fresh(genotype) else self.useless + 1
        if self.useless >= self.stuck:
            self.useless = 0
            for _ in range(2000):
                other = self.space.sample(self.rng)
                if self.meter.fresh(other):
                    return other
            raise Spent
        return genotype

    def values(self, genotype: Any, rungs: int = RUNGS) -> tuple[float, float, float]:
        """Loss, latency_ms and the milliseconds above the budget; outside the budget the worst
        loss.
        """
        latency_ms = self.meter.latency_ms(genotype)
        excess = latency_ms - self.meter.problem.budget_ms
        return (self.worst if excess > 0 else self.meter.train(genotype, rungs)), latency_ms, excess


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def optuna_sampler(make: Callable[[Any, int], Any], stuck: int = STUCK) -> Callable[[Meter], None]:
    """Two objectives and the constraint of the budget, asked and told."""

    def run(meter: Meter) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=make(optuna.samplers, meter.seed)
        )
        distributions, proposals = meter.problem.space.distributions(), Proposals(meter, stuck)
        while True:
            trials = [study.ask(distributions) for _ in range(BATCH)]
            for trial in trials:
                loss, latency_ms, excess = proposals.values(proposals.genotype(trial.params))
                trial.set_constraint("budget", excess)
                study.tell(trial, [loss, latency_ms])

    return run


def pymoo_nsga2(meter: Meter) -> None:
    """Mixed variables with pymoo's own operators for them, and the budget as a constraint."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mixed import (
        MixedVariableDuplicateElimination,
        MixedVariableMating,
        MixedVariableSampling,
    )
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.termination import NoTermination
    from pymoo.core.variable import Choice, Integer, Real
    from pymoo.problems.static import StaticProblem

    distributions = meter.problem.space.distributions()
    logs = [
        name for name, d in distributions.items() if getattr(d, "log", False)
    ]  # logarithmic integers are missing
    variables = {
        name: Choice(options=list(d.choices))
        if hasattr(d, "choices")
        else Real(bounds=(np.log(d.low), np.log(d.high)))
        if name in logs
        else Integer(bounds=(d.low, d.high))
        if isinstance(d.low, int)
        else Real(bounds=(d.low, d.high))
        for name, d in distributions.items()
    }
    problem = PymooProblem(vars=variables, n_obj=2, n_ieq_constr=1)
    duplicates = MixedVariableDuplicateElimination()
    algorithm = NSGA2(
        pop_size=POPULATION,
        n_offsprings=BATCH,
        sampling=MixedVariableSampling(),
        mating=MixedVariableMating(eliminate_duplicates=duplicates),
        eliminate_duplicates=duplicates,
    )
    algorithm.setup(problem, termination=NoTermination(), seed=meter.seed, verbose=False)
    proposals = Proposals(meter)
    while True:
        population = algorithm.ask()
        asked = [x | {name: round(np.exp(x[name])) for name in logs} for x in population.get("X")]
        rows = np.array([proposals.values(proposals.genotype(x)) for x in asked])
        algorithm.evaluator.eval(StaticProblem(problem, F=rows[:, :2], G=rows[:, 2:]), population)
        algorithm.tell(infills=population)


def syne_space(space: SearchSpace[Any]) -> dict[str, Any]:
    from syne_tune.config_space import choice, lograndint, randint, uniform

    result = {}
    for name, d in space.distributions().items():
        if hasattr(d, "choices"):
            result[name] = choice(list(d.choices))
        elif isinstance(d.low, int):
            result[name] = (lograndint if d.log else randint)(d.low, d.high)
        else:
            result[name] = uniform(d.low, d.high)
    return {name: domain for name, domain in result.items() if len(domain) != 1}


def constants(space: SearchSpace[Any]) -> dict[str, Any]:
    """Parameters with one value only."""
    return {
        name: d.low
        for name, d in space.distributions().items()
        if not hasattr(d, "choices") and d.single()
    }


def syne_evolution(meter: Meter) -> None:
    """Syne Tune's multi-objective regularized evolution."""
    from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution

    searcher = MultiObjectiveRegularizedEvolution(
        syne_space(meter.problem.space),
        population_size=POPULATION,
        sample_size=5,
        random_seed=meter.seed,
    )
    proposals, fixed, number = Proposals(meter), constants(meter.problem.space), 0
    while True:
        batch: dict[Any, dict[str, Any]] = {}
        while (
            len(batch) < BATCH
        ):  # the library lacks constraints: what is outside the budget, or known, is left out
            config = searcher.suggest()
            genotype = proposals.genotype(config | fixed)
            if meter.fresh(genotype):
                batch.setdefault(genotype, config)
        for genotype, config in batch.items():
            searcher.on_trial_complete(
                number, config, [meter.train(genotype), meter.latency_ms(genotype)]
            )
            number += 1


def syne_moasha(meter: Meter) -> None:
    """Syne Tune's MOASHA with BATCH asynchronous workers, which take turns after each part of a
    training.
    """
    from datetime import datetime

    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    np.random.seed(meter.seed)  # noqa: NPY002 (its domains draw from the global generator)
    scheduler = MOASHA(
        syne_space(meter.problem.space),
        metrics=["loss", "latency_ms"],
        time_attr="part",
        max_t=RUNGS,
        grace_period=1,
        reduction_factor=2,
        random_seed=meter.seed,
    )
    proposals, fixed, number = Proposals(meter), constants(meter.problem.space), 0

    def start() -> Iterator[None]:
        nonlocal number
        suggestion = scheduler.suggest()
        genotype = proposals.genotype(suggestion.config | fixed)
        while not meter.fresh(genotype):
            genotype = proposals.genotype(scheduler.suggest().config | fixed)
        trial = Trial(trial_id=number, config=suggestion.config, creation_time=datetime(2026, 1, 1))
        number += 1
        scheduler.on_trial_add(trial)
        for part in range(1, RUNGS + 1):
            result = {
                "loss": meter.train(genotype, part),
                "latency_ms": meter.latency_ms(genotype),
                "part": part,
            }
            if part == RUNGS:
                scheduler.on_trial_complete(trial, result)
            elif scheduler.on_trial_result(trial, result) == "STOP":
                return
            yield

    workers = [start() for _ in range(BATCH)]
    while True:
        for i, worker in enumerate(workers):
            if next(worker, "ended") == "ended":
                workers[i] = start()


def neps_primo(meter: Meter) -> None:
    """NePS' PriMO without priors: MOASHA first, then Bayesian optimization of weighted objectives.
    One candidate at a time: NePS 0.17 ends with an error if it is asked again before the first
    results."""
    import logging
    import random

    import neps
    import torch

    logging.getLogger("neps").setLevel(logging.ERROR)
    random.seed(meter.seed)
    np.random.seed(meter.seed)  # noqa: NPY002
    torch.manual_seed(meter.seed)
    fields: dict[str, Any] = {}
    fixed = constants(meter.problem.space)
    for name, d in meter.problem.space.distributions().items():
        if name not in fixed:
            fields[name] = (
                neps.HPOCategorical(choices=list(d.choices))
                if hasattr(d, "choices")
                else neps.HPOInteger(d.low, d.high, log=d.log)
                if isinstance(d.low, int)
                else neps.HPOFloat(d.low, d.high)
            )
    fields["part"] = neps.HPOInteger(1, RUNGS, is_fidelity=True)
    space = neps.space.SearchSpace(fields)
    optimizer = neps.AskAndTell(
        neps.algorithms.primo(space, eta=2, prior_centers={}, initial_design_size=INITIAL)
    )
    proposals = Proposals(meter, STUCK_SLOW)
    while True:
        trial = optimizer.ask()
        config = dict(trial.config)
        part = int(config.pop("part"))
        loss, latency_ms, excess = proposals.values(proposals.genotype(config | fixed), part)
        optimizer.tell(trial, {"objective_to_minimize": [loss, latency_ms + 10 * max(excess, 0)]})


def botorch_search(noisy: bool, features: bool) -> Callable[[Meter], None]:
    """BoTorch's qLogNEHVI or qLogEHVI: a Gaussian process of the loss, the latency as an exactly
    known outcome, the best of a random pool. features: those of the space in place of its
    encoding."""

    def run(meter: Meter) -> None:
        import torch
        from botorch.acquisition.multi_objective.logei import (
            qLogExpectedHypervolumeImprovement,
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelList, SingleTaskGP
        from botorch.models.deterministic import GenericDeterministicModel
        from botorch.models.transforms.input import FilterFeatures
        from botorch.optim import optimize_acqf_discrete
        from botorch.sampling.get_sampler import get_sampler
        from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
        from gpytorch.mlls import ExactMarginalLogLikelihood

        torch.manual_seed(meter.seed)
        torch.set_num_threads(1)
        space, rng = meter.problem.space, np.random.default_rng([meter.seed, 8])
        describe = (
            space.features if features else lambda genotype: SearchSpace.features(space, genotype)
        )

        def draw(count: int) -> list[Any]:
            found: dict[Any, None] = {}
            for _ in range(20 * count):
                genotype = space.sample(rng)
                if len(found) < count and meter.fresh(genotype):
                    found[genotype] = None
            if not found:
                raise Spent
            return list(found)

        sample = np.array([describe(genotype) for genotype in draw(256)])
        low, span = sample.min(axis=0), np.maximum(np.ptp(sample, axis=0), 1e-9)
        budget = meter.problem.budget_ms

        def rows(genotypes: list[Any]) -> Any:
            """Features, and the latency as a share of the budget in the last column."""
            table = (np.array([describe(genotype) for genotype in genotypes]) - low) / span
            return torch.tensor(
                np.column_stack([table, [meter.latency_ms(g) / budget for g in genotypes]])
            )

        known = draw(INITIAL)
        losses = [meter.train(genotype) for genotype in known]
        while True:
            x = rows(known)
            y = torch.tensor(losses, dtype=torch.float64)[:, None]
            centre, scale = y.mean(), y.std()
            inputs = FilterFeatures(feature_indices=torch.arange(x.shape[1] - 1))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = SingleTaskGP(
                    x, -(y - centre) / scale, outcome_transform=None, input_transform=inputs
                )
                fit_gpytorch_mll(
                    ExactMarginalLogLikelihood(model.likelihood, model),
                    optimizer_kwargs={"options": {"maxiter": 60}},
                )
                both = ModelList(
                    model, GenericDeterministicModel(lambda X: -X[..., -1:], num_outputs=1)
                )
                worst = -(y.max() - centre) / scale - 0.1 * (y.max() - y.min()) / scale
                reference = torch.tensor([float(worst), -1.0], dtype=torch.float64)
                sampler = get_sampler(both.posterior(x), torch.Size([32]), seed=meter.seed)
                if noisy:
                    acquisition: Any = qLogNoisyExpectedHypervolumeImprovement(
                        both, reference, x, prune_baseline=True, sampler=sampler, cache_root=False
                    )
                else:
                    seen = torch.cat([-(y - centre) / scale, -x[:, -1:]], dim=1)
                    acquisition = qLogExpectedHypervolumeImprovement(
                        both,
                        reference,
                        FastNondominatedPartitioning(reference, seen),
                        sampler=sampler,
                    )
                pool = draw(POOL)
                chosen, _ = optimize_acqf_discrete(
                    acquisition, min(BATCH, len(pool)), rows(pool), unique=True
                )
            table = rows(pool)
            batch = [pool[int((table - row).abs().sum(dim=1).argmin())] for row in chosen]
            known += batch
            losses += [meter.train(genotype) for genotype in batch]

    return run


METHODS = {
    method.name: method
    for method in (
        Method("random", ours("random")),
        Method("aging-evolution", ours("aging-evolution")),
        Method("nsga2", ours("nsga2")),
        Method("tpe", ours("tpe")),
        Method("bayes", ours("bayes")),
        Method(
            "optuna-nsga2",
            optuna_sampler(lambda s, seed: s.NSGAIISampler(population_size=POPULATION, seed=seed)),
            "optuna",
            "optuna",
        ),
        Method(
            "optuna-tpe",
            optuna_sampler(
                lambda s, seed: s.TPESampler(
                    n_startup_trials=POPULATION, multivariate=True, constant_liar=True, seed=seed
                )
            ),
            "optuna",
            "optuna",
        ),
        Method(
            "optuna-gp",
            optuna_sampler(
                lambda s, seed: s.GPSampler(n_startup_trials=INITIAL, seed=seed), STUCK_SLOW
            ),
            "optuna",
            "optuna",
        ),
        Method("pymoo-nsga2", pymoo_nsga2, "pymoo", "pymoo"),
        Method("syne-tune-mo-evolution", syne_evolution, "syne_tune", "syne-tune"),
        Method("syne-tune-moasha", syne_moasha, "syne_tune", "syne-tune"),
        Method("neps-primo", neps_primo, "neps", "neural-pipeline-search"),
        Method(
            "botorch-qlogehvi", botorch_search(noisy=False, features=False), "botorch", "botorch"
        ),
        Method(
            "botorch-qlognehvi", botorch_search(noisy=True, features=False), "botorch", "botorch"
        ),
        Method(
            "botorch-qlognehvi-features",
            botorch_search(noisy=True, features=True),
            "botorch",
            "botorch",
        ),
    )
}
