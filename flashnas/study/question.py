"""The question of a search: its parts, and how its networks are scored."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, fidelities_of
from flashnas.reuse.resized import MAX_RESIZED, resized_networks
from flashnas.search.objectives import TRAINED, task_scores
from flashnas.study.clock import expected_s
from flashnas.study.proposer import Proposer
from flashnas.study.rungs import Rungs, find_rungs, rungs_of
from flashnas.study.scores import Scores
from flashnas.study.trainings import TimeLimit, find_time_limit

MAX_EXPECTED = 4096      # networks whose expected time is kept


class Question(Proposer):
    """One search. What takes a while is computed when it is first read; `prepare` reads all of it."""

    @functools.cached_property
    def time_limit(self) -> TimeLimit:
        first = [network for _, network in self.baselines if network is not None]
        return find_time_limit(self.config, self.recipe, self.fitter, first, self.note)

    @functools.lru_cache(maxsize=MAX_EXPECTED)  # noqa: B019 - as long as the search
    def expected_s(self, network: Any | None) -> float:
        """Expected seconds of a training on one worker, with its synthetic tasks; None: of a network that the
        search draws. 1 where nothing says it, such as for an evaluator."""
        if self.recipe is None or (network is None and not self.time_limit.candidate_s):
            return 1.0
        return expected_s(self.recipe, self.tasks,
                          self.time_limit.candidate_s if network is None else network)

    @functools.cached_property
    def dataset(self) -> Dataset | None:
        if self.recipe is None:
            return None
        dataset = prepare_dataset(self.config.data, self.recipe, self.config.tokenizer)
        for line in dataset.notes:
            self.note(line)
        return dataset

    @functools.cached_property
    def scores(self) -> Scores:
        return Scores(config=self.config, known=self.known, with_metrics=not self.costs.known,
                      recipe=self.recipe, dataset=self.dataset)

    @functools.cached_property
    def new_baselines(self) -> dict[str, Any]:
        """The baselines without a known score, by hash."""
        return {network.hash: network for _, network in self.baselines
                if network is not None and self.scores.score(network) is None}

    @functools.cached_property
    def rungs(self) -> Rungs:
        """Where trainings pause; the fidelities of an evaluator are its rungs."""
        config = self.config
        if self.recipe is not None and self.dataset is not None:
            return find_rungs(config, self.recipe, self.dataset, self.note)
        steps = () if self.evaluator is None else fidelities_of(self.evaluator)  # checks them
        if self.evaluator is None or not config.rungs:
            return Rungs()
        if not steps:
            config.wrong("rungs", "needs an evaluator with the attribute 'fidelities', increasing whole"
                                  " numbers; it is then called with a network and one of them")
        if not self.costs.known:
            config.wrong("rungs", "needs metrics before the evaluation: give table=FUNCTION, network ->"
                                  " latency_ms or a mapping of metrics; got table=None")
        return rungs_of(config, steps, "the evaluator's fidelities", self.note)

    @property
    def tasks(self) -> tuple[str, ...]:
        return task_scores(self.config.objectives)

    def job(self, network: Any, seed: int | None = None) -> Job:
        """The evaluation of a network; seed: of its training, if not that of the search."""
        seed = self.config.seed if seed is None else seed
        if self.evaluator is not None:
            needed = tuple(name for name in self.config.objectives
                           if name != "loss" and (name in TRAINED or not self.costs.known))
            return Job(architecture=network, evaluator=self.evaluator, needed=needed, seed=seed)
        assert self.recipe is not None
        assert self.dataset is not None
        return Job(architecture=network, dataset=str(self.dataset.folder), recipe=self.recipe.to_dict(),
                   seed=seed, tasks=self.tasks, processes=self.config.processes_per_candidate)

    def known_networks(self) -> list[tuple[Any, Any, str]]:
        """Genotype, network and source of the known networks of the space within the budgets, each once."""
        networks: dict[str, tuple[Any, Any, str]] = {}
        for genotype, network, label in self.scores.networks(self.space):
            scored = network.hash not in networks and self.scores.score(network)
            if scored and self.fitter.fits_network(network):
                networks[network.hash] = genotype, network, label
        return list(networks.values())

    def resized(self, front: np.ndarray) -> list[Any]:
        """The genotypes of the earlier runs whose network in this search nobody trained, the most promising
        first. front: points [N, M] of the trials so far, all minimised."""
        if self.known is None or not self.costs.known:
            return []
        ranking = resized_networks(self.fitter, self.known, objectives=self.config.objectives, front=front)
        return [resized.genotype for resized in ranking[:MAX_RESIZED]]
