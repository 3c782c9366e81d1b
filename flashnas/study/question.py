"""The question of a search: its loaded parts, and what follows from them for every candidate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.fingerprint import fingerprint
from flashnas.base.registry import foreign_errors
from flashnas.bench.answers import Answers
from flashnas.data.dataset import Dataset
from flashnas.executors.job import Job, UserEvaluator, evaluator_name
from flashnas.latency.certificate import Certificate
from flashnas.latency.costs import Costs, OwnCosts, TableCosts, metric_of
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.reuse.known import KnownRuns
from flashnas.runs.identity import Identity
from flashnas.search import SearchAlgorithm, algorithm_class, make_algorithm, sampler_name
from flashnas.search.algorithm import Goals, Prior
from flashnas.search.objectives import TRAINED, minimised, task_scores
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import MIN_RECALL, TIMEOUT_S, SearchConfig
from flashnas.study.evidence_search import Foretold, pure_stacks, ranked, search_by_evidence
from flashnas.study.foresight import Foresight
from flashnas.study.refit import MOST_REFITS, refits
from flashnas.study.rungs import Rungs
from flashnas.study.self_correction import SelfCorrection
from flashnas.study.time_limit import TimeLimit
from flashnas.training.cost import training_flops
from flashnas.training.recipe import Recipe

if TYPE_CHECKING:  # they load torch
    from flashnas.profiling.program import Program
    from flashnas.profiling.setup import Setup

NEAR = 20               # networks near the recommended one that the algorithm looks at, beside the front
UNIT_FLOPS = 1e12       # of the cost of a training


@dataclass(frozen=True)
class KnownNetwork:
    """A network of the space that a bench or an earlier run has a score for. label: where it is from."""

    genotype: Any
    network: Any
    label: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """All parts of one search.

    Attributes:
        recipe, dataset: of the trainings; None where an evaluator scores the networks.
        evaluator: the user's function, or None.
        certificate: what the table's validation says of its predictions, if a confidence is asked for.
        bench: the scores that a bench answers with, or None.
        seed_bench: further seed of the finalists -> the scores that a bench answers with, or None.
        rungs: where trainings pause.
        time_limit: of one training.
        known: the networks of earlier runs that the search starts from, or None.
        no_bench: why a shipped bench answers nothing, in words; empty if one answers or none is asked.
        timing: how the finalists are timed; None where the table's device is not at hand.
        foresight: what is expected of full trainings, in a search that ranks by it; else None.
        notes: lines for the user on how networks are ranked.
        started: when its preparation began, in seconds since the epoch.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    budgets: tuple[Budget, ...]
    workload: Workload | None
    recipe: Recipe | None
    dataset: Dataset | None
    evaluator: UserEvaluator | None
    certificate: Certificate | None
    timing: Setup | Program | None
    sampler: str | type[SearchAlgorithm]
    started: float
    bench: Answers | None = None
    known: KnownRuns | None = None
    no_bench: str = ""
    foresight: Foresight | None = None
    notes: tuple[str, ...] = ()
    seed_bench: Callable[[int], Answers | None] = lambda _: None
    rungs: Rungs = field(default_factory=Rungs)
    time_limit: TimeLimit = field(default_factory=lambda: TimeLimit(seconds=TIMEOUT_S))

    @property
    def model(self) -> LatencyModel | None:
        """The latency model, where a table answers."""
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    def self_correction(self) -> SelfCorrection | None:
        """What corrects the predictions while the search goes on, if it is asked for."""
        if self.config.measure_every is None or not isinstance(self.costs, TableCosts):
            return None
        return SelfCorrection(self.costs, self.fitter, every=self.config.measure_every, budgets=self.budgets,
                              certificate=self.certificate)

    def algorithm(self, seed: int | None = None) -> SearchAlgorithm:
        """A fresh one; raises ConfigError for an unknown sampler or option, or one that the space cannot serve.

        seed: of its draws, if it is not that of the search.
        """
        config = self.config
        with foreign_errors(*self.foreign()):
            return make_algorithm(self.sampler if config.trials else "random", space=self.space,
                                  seed=config.seed if seed is None else seed,
                                  latency_of=self.fitter.latency_of,
                                  cycle_size=config.cycle_size,
                                  goals=_goals(config.objectives, self.costs, self.foresee),
                                  **(config.sampler_options if config.trials else {}))

    def foreign(self) -> tuple[tuple[str, object], ...]:
        """What may be code of another package, for `foreign_errors`."""
        return ("sampler", algorithm_class(self.sampler)), ("space", self.space)

    def baselines(self) -> list[tuple[str, Any | None]]:
        """(label, network or None where no width meets the budgets): the best pure stack of each mixer, where published
        trainings say which that is; else the layouts of the space."""
        if not self.config.baselines:
            return []
        if self.foresight is not None and isinstance(self.space, OperatorSpace):
            return list(self._pure_stacks)
        return [(label, self.fitter.largest(sizes)) for label, sizes in self.space.baselines()]

    @functools.cached_property
    def _pure_stacks(self) -> list[tuple[str, Any]]:
        foresight = self.foresight
        assert foresight is not None
        assert isinstance(self.space, OperatorSpace)
        return pure_stacks(self.space, self.fitter, lambda networks: ranked(*foresight.expected(networks)))

    @functools.cached_property
    def foretold(self) -> Foretold | None:
        """The networks that published trainings expect to be good; None in a search that does not rank by them."""
        if self.foresight is None or not isinstance(self.space, OperatorSpace):
            return None
        return search_by_evidence(self.space, self.fitter, self.foresight, seed=self.config.seed,
                                  min_recall=self.recall_floor)

    def prior(self) -> Prior | None:
        """What published trainings tell the algorithm; None in a search that does not rank by them."""
        foresight, told = self.foresight, self.foretold
        if foresight is None or told is None or self.recipe is None:
            return None
        recipe = self.recipe
        order = dict.fromkeys([*told.nearest(self.recall_floor, NEAR), *reversed(told.front(self.recall_floor))])
        return Prior(value_of=lambda networks: ranked(*foresight.expected(networks)), moves_of=foresight.moves,
                     cost_of=lambda network: training_flops(recipe.proxy_of(network), recipe) / UNIT_FLOPS,
                     best=[told.genotypes[place] for place in order])

    @property
    def recall_floor(self) -> float:
        """What the recommendation keeps."""
        return MIN_RECALL if self.config.min_recall is None else self.config.min_recall

    def foresee(self, network: Any, loss: float | None) -> dict[str, Any]:
        """What is expected of a full training of a network, as fields of a Trial; loss: of its short training."""
        return {} if self.foresight is None else self.foresight.figures(network, loss)

    def job(self, network: Any, seed: int | None = None) -> Job:
        """The evaluation of a network; seed: of its training, if it is not that of the search."""
        if self.evaluator is not None:
            return Job(architecture=network, evaluator=self.evaluator, needed=self._needed(),
                       seed=self.config.seed if seed is None else seed)
        assert self.recipe is not None
        assert self.dataset is not None
        return Job(architecture=network, dataset=str(self.dataset.folder), recipe=self.recipe.to_dict(),
                   seed=self.config.seed if seed is None else seed, tasks=task_scores(self.config.objectives),
                   processes=self.config.processes_per_candidate)

    def known_score(self, network: Any, seed: int | None = None) -> dict[str, Any] | None:
        """The score that an earlier run or a bench has for a network, or None; seed: of its training, if it is not that
        of the search, which a bench alone may know: a run has the mean of its seeds, in the score of the first one."""
        if seed is not None:
            bench = self.seed_bench(seed)
            return None if bench is None else bench.score(network)
        found = None if self.known is None else self.known.score(network, metrics=not self.costs.known)
        if found is not None and set(task_scores(self.config.objectives)) <= set(found["scores"]):
            return found
        return None if self.bench is None else self.bench.score(network)

    def known_networks(self) -> list[KnownNetwork]:
        """The networks of the space within the budgets that a bench or an earlier run has scores for, each once: the
        runs' in their order, then the bench's."""
        found: dict[str, KnownNetwork] = {}
        for genotype, network, label in (*self._of_runs(), *self._of_bench()):
            if network.hash not in found and self.known_score(network) and self.fitter.fits_network(network):
                found[network.hash] = KnownNetwork(genotype, network, label)
        return list(found.values())

    def _of_runs(self) -> Iterator[tuple[Any, Any, str]]:
        for one in () if self.known is None else self.known.networks:
            genotype, network = one.genotype, one.network
            if one.run.entry("space", "hash") != self.space.hash:
                genotype = (self.space.locate(network) if isinstance(self.space, OperatorSpace)
                            and isinstance(network, Architecture) and self.space.contains(network) else None)
            if genotype is not None and network is not None:
                yield genotype, network, f"run {one.run.name}"

    def _of_bench(self) -> Iterator[tuple[Any, Any, str]]:
        space = self.space
        if self.bench is None or not isinstance(space, OperatorSpace):
            return
        for one in self.bench.known:
            genotype = space.locate(one.architecture)
            if genotype is not None:
                yield genotype, space.architecture(genotype, one.architecture.hidden), f"bench {one.origin}"

    def refits(self, front: np.ndarray) -> list[Any]:
        """The genotypes of the earlier runs whose network in this search nobody trained, the most promising first, at
        most MOST_REFITS. front: points [N, M] of what is known, all minimised."""
        if self.known is None or not self.costs.known:
            return []
        found = refits(self.space, self.fitter, self.costs, self.known, objectives=self.config.objectives, front=front)
        return [one.genotype for one in found[:MOST_REFITS]]

    def _needed(self) -> tuple[str, ...]:
        """Objectives that the user's evaluator must return besides the loss."""
        return tuple(name for name in self.config.objectives
                     if name != "loss" and (name in TRAINED or not self.costs.known))

    def identity(self) -> Identity:
        model, recipe, dataset = self.model, self.recipe, self.dataset
        function = self.costs.function if isinstance(self.costs, OwnCosts) else None
        asked = {**self.config.question(), "space": self.space.name, "sampler": sampler_name(self.sampler)}
        if dataset is None:
            asked.update(data=None, tokenizer=None)
        return Identity(**{
            **asked, "space_hash": self.space.hash,
            "table": asked["table"] if model else None if function is None else evaluator_name(function),
            "table_hash": table_hash(model.table) if model else None,
            "workload": None if self.workload is None else self.workload.to_dict(),
            "margins": dict(self.certificate.margins) if self.certificate else None,
            "recipe": None if recipe is None else recipe.to_dict(),
            "corpus": None if dataset is None else dataset.folder.name,
            "evaluator": None if self.evaluator is None else evaluator_name(self.evaluator),
            "bench": None if self.bench is None else self.bench.digest,
            "foresight": None if self.foresight is None else self.foresight.digest,
            "rungs": self.rungs.tokens, "rung_chance": self.rungs.chance, "rung_curves": self.rungs.digest,
            "start_from": None if self.known is None else self.known.digest})


def _goals(objectives: Sequence[str], costs: Costs, foresee: Callable[[Any, float | None], dict[str, Any]],
           ) -> Goals | None:
    """None for one trained quality against a latency_ms that is known; else which objectives are known, and how."""
    if costs.known and objectives[1] == "latency_ms" and len(objectives) == 2:
        return None
    known = [name for name in objectives if name not in TRAINED] if costs.known else []
    return Goals(tuple(name in known for name in objectives), lambda network: tuple(
        minimised(name, metric_of(name, {**costs.metrics(network), **foresee(network, None)})) for name in known))


def table_hash(table: LatencyTable) -> str:
    """Changes with any row of the table and with its calibration."""
    return fingerprint([{kind: entry["sha256"] for kind, entry in table.meta["kinds"].items()}, table.calibration])
