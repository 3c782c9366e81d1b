"""The question of a search: its loaded parts, and what follows from them for every candidate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flashnas.base.registry import foreign_errors
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, UserEvaluator, fidelities_of
from flashnas.latency.costs import TableCosts, metric_of
from flashnas.search import SearchAlgorithm, algorithm_class, make_algorithm
from flashnas.search.algorithm import Goals, Prior
from flashnas.search.objectives import TRAINED, minimised, task_scores
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import MIN_RECALL, SearchConfig
from flashnas.study.evidence_search import Foretold, pure_stacks, ranked, search_by_evidence
from flashnas.study.refit import MOST_REFITS, refits
from flashnas.study.rungs import Rungs, find_rungs, rungs_of
from flashnas.study.scores import Scores
from flashnas.study.time_limit import TimeLimit, find_time_limit
from flashnas.training.cost import training_flops

if TYPE_CHECKING:
    from flashnas.latency.certificate import Certificate
    from flashnas.latency.costs import Costs
    from flashnas.latency.fitting import Fitter
    from flashnas.latency.prediction import LatencyModel
    from flashnas.profiling.program import Program
    from flashnas.profiling.setup import Setup
    from flashnas.reuse.known import KnownRuns
    from flashnas.study.foresight import Foresight
    from flashnas.training.recipe import Recipe

NEAR = 20               # networks near the recommended one that the algorithm looks at, beside the front
UNIT_FLOPS = 1e12       # of the cost of a training


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """All parts of one search. What takes a while is computed when it is first read; `prepare` reads all of
    it, so that whatever cannot work is an error before the search begins.

    Attributes:
        recipe: of the trainings; None where an evaluator scores the networks, or nothing is trained.
        evaluator: the user's function, or None.
        certificate: what the table's validation says of its predictions, if a confidence is asked for.
        timing: how the finalists are timed; None where the table's device is not at hand.
        foresight: what is expected of full trainings, in a search that ranks by it; else None.
        known: the networks of earlier runs that the search starts from, or None.
        note: receives lines for the user while parts are loaded.
        notes: lines for the user on how networks are ranked, once nothing is wrong.
        started: when its preparation began, in seconds since the epoch.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    sampler: str | type[SearchAlgorithm]
    recipe: Recipe | None = None
    evaluator: UserEvaluator | None = None
    certificate: Certificate | None = None
    timing: Setup | Program | None = None
    foresight: Foresight | None = None
    known: KnownRuns | None = None
    note: Callable[[str], None] = field(default=lambda _: None, repr=False)
    notes: tuple[str, ...] = ()
    started: float = 0.0

    @property
    def model(self) -> LatencyModel | None:
        """The latency model, where a table answers."""
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    def foreign(self) -> tuple[tuple[str, object], ...]:
        """What may be code of another package, for `foreign_errors`."""
        return ("sampler", algorithm_class(self.sampler)), ("space", self.space)

    # -- how networks are scored -----------------------------------------------------------------------------------

    @functools.cached_property
    def time_limit(self) -> TimeLimit:
        """Of one training."""
        first = [network for _, network in self.baselines if network is not None]
        return find_time_limit(self.config, self.recipe, self.fitter, first, self.note)

    @functools.cached_property
    def dataset(self) -> Dataset | None:
        """The prepared text of the trainings; None where nothing is trained."""
        if self.recipe is None:
            return None
        dataset = prepare_dataset(self.config.data, self.recipe, self.config.tokenizer)
        for line in dataset.notes:
            self.note(line)
        return dataset

    @functools.cached_property
    def scores(self) -> Scores:
        """What a bench and earlier runs know."""
        return Scores(config=self.config, known=self.known, with_metrics=not self.costs.known, recipe=self.recipe,
                      dataset=self.dataset)

    @functools.cached_property
    def rungs(self) -> Rungs:
        """Where trainings pause; the fidelities of an evaluator are its rungs."""
        config = self.config
        if self.recipe is not None and self.dataset is not None:
            return find_rungs(config, self.recipe, self.dataset, self.note)
        if self.evaluator is None or not config.rungs:
            return Rungs()
        steps = fidelities_of(self.evaluator)
        if not steps:
            config.wrong("rungs", "needs an evaluator with the attribute 'fidelities', increasing whole numbers; it is"
                         " then called with a network and one of them")
        if not self.costs.known:
            config.wrong("rungs", "needs metrics before the evaluation: give table=FUNCTION, network -> latency_ms or a"
                         " mapping of metrics; got table=None")
        return rungs_of(config, steps, "the evaluator's fidelities", self.note)

    def job(self, network: Any, seed: int | None = None) -> Job:
        """The evaluation of a network; seed: of its training, if it is not that of the search."""
        seed = self.config.seed if seed is None else seed
        if self.evaluator is not None:
            needed = tuple(name for name in self.config.objectives
                           if name != "loss" and (name in TRAINED or not self.costs.known))
            return Job(architecture=network, evaluator=self.evaluator, needed=needed, seed=seed)
        assert self.recipe is not None
        assert self.dataset is not None
        return Job(architecture=network, dataset=str(self.dataset.folder), recipe=self.recipe.to_dict(), seed=seed,
                   tasks=task_scores(self.config.objectives), processes=self.config.processes_per_candidate)

    def known_networks(self) -> list[tuple[Any, Any, str]]:
        """Genotype, network and source of the networks of the space within the budgets that a bench or an
        earlier run has scores for, each once."""
        networks: dict[str, tuple[Any, Any, str]] = {}
        for genotype, network, label in self.scores.networks(self.space):
            if network.hash not in networks and self.scores.score(network) and self.fitter.fits_network(network):
                networks[network.hash] = genotype, network, label
        return list(networks.values())

    def refits(self, front: np.ndarray) -> list[Any]:
        """The genotypes of the earlier runs whose network in this search nobody trained, the most promising
        first, at most MOST_REFITS. front: points [N, M] of what is known, all minimised."""
        if self.known is None or not self.costs.known:
            return []
        ranking = refits(self.space, self.fitter, self.costs, self.known, objectives=self.config.objectives,
                         front=front)
        return [refit.genotype for refit in ranking[:MOST_REFITS]]

    # -- what is searched ------------------------------------------------------------------------------------------

    def algorithm(self, seed: int | None = None) -> SearchAlgorithm:
        """A fresh one; raises ConfigError for an unknown sampler or option, or one that the space cannot
        serve.

        seed: of its draws, if it is not that of the search.
        """
        config = self.config
        with foreign_errors(*self.foreign()):
            return make_algorithm(self.sampler if config.trials else "random", space=self.space,
                                  seed=config.seed if seed is None else seed, latency_of=self.fitter.latency_of,
                                  cycle_size=config.cycle_size, goals=self._goals(),
                                  **(config.sampler_options if config.trials else {}))

    def _goals(self) -> Goals | None:
        """None for one trained quality against a latency_ms that is known; else which objectives are known,
        and how."""
        names, costs = self.config.objectives, self.costs
        if costs.known and names[1] == "latency_ms" and len(names) == 2:
            return None
        exact = [name for name in names if name not in TRAINED] if costs.known else []
        return Goals(tuple(name in exact for name in names), lambda network: tuple(
            minimised(name, metric_of(name, {**costs.metrics(network), **self.foresee(network, None)}))
            for name in exact))

    @functools.cached_property
    def baselines(self) -> list[tuple[str, Any | None]]:
        """(label, network or None where no width meets the budgets): the best pure stack of each mixer, where
        published trainings say which that is; else the layouts of the space."""
        if not self.config.baselines:
            return []
        if (foresight := self.foresight) is not None and isinstance(self.space, OperatorSpace):
            return list(pure_stacks(self.space, self.fitter, lambda networks: ranked(*foresight.expected(networks))))
        return [(label, self.fitter.largest(sizes)) for label, sizes in self.space.baselines()]

    # -- what published trainings say ------------------------------------------------------------------------------

    @property
    def recall_floor(self) -> float:
        """What the recommendation keeps."""
        return MIN_RECALL if self.config.min_recall is None else self.config.min_recall

    def foresee(self, network: Any, loss: float | None) -> dict[str, Any]:
        """What is expected of a full training of a network, as fields of a Trial; loss: of its short
        training."""
        return {} if self.foresight is None else self.foresight.figures(network, loss)

    @functools.cached_property
    def foretold(self) -> Foretold | None:
        """The networks that published trainings expect to be good; None in a search that does not rank by
        them."""
        if self.foresight is None or not isinstance(self.space, OperatorSpace):
            return None
        return search_by_evidence(self.space, self.fitter, self.foresight, seed=self.config.seed,
                                  min_recall=self.recall_floor)

    def evidence_lines(self) -> list[str]:
        """One line on what published trainings alone recommend; none in a search that does not rank by
        them."""
        if (told := self.foretold) is None:
            return []
        place = told.best(self.recall_floor)
        assert place is not None, "budgets that no network meets are refused earlier"
        return [f"published trainings alone recommend {told.networks[place].notation}, of {len(told.networks):,}"
                " networks within the budgets"]

    def prior(self) -> Prior | None:
        """What published trainings tell the algorithm; None in a search that does not rank by them."""
        foresight, told, recipe = self.foresight, self.foretold, self.recipe
        if foresight is None or told is None or recipe is None:
            return None
        order = dict.fromkeys([*told.nearest(self.recall_floor, NEAR), *reversed(told.front(self.recall_floor))])
        return Prior(value_of=lambda networks: ranked(*foresight.expected(networks)), moves_of=foresight.moves,
                     cost_of=lambda network: training_flops(recipe.proxy_of(network), recipe) / UNIT_FLOPS,
                     best=[told.genotypes[place] for place in order])
