"""The question of a search: its loaded parts, what it draws from, and how its networks are
scored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashnas.base.registry import foreign_errors
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, UserEvaluator, evaluator_name
from flashnas.latency.certificate import Certificate
from flashnas.latency.costs import Costs, OwnCosts, TableCosts, metric_of
from flashnas.latency.fitting import Fitter
from flashnas.latency.prediction import LatencyModel
from flashnas.reuse.known import KnownRuns
from flashnas.search import (
    ALGORITHMS,
    Goals,
    SearchAlgorithm,
    algorithm_class,
    make_algorithm,
    sampler_name,
)
from flashnas.search.algorithm import Prior
from flashnas.search.objectives import QUALITY, minimised
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.clock import expected_s
from flashnas.study.config import SearchConfig
from flashnas.study.evidence_search import Foretold, pure_stacks, search_by_evidence
from flashnas.study.foresight import Foresight, load_models, recipe_read, silence
from flashnas.study.scores import Scores
from flashnas.study.trainings import TimeLimit, find_time_limit
from flashnas.training.cost import training_flops
from flashnas.training.recipe import Recipe

MAX_EXPECTED = 4096  # networks whose expected time is kept
NEAR = 20  # networks near the recommended one that the algorithm looks at, beside the front
UNIT_FLOPS = 1e12  # of the cost of a training


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One search. What takes a while is computed when it is first read; `prepare` reads all of it.

    recipe: of the trainings; None where an evaluator scores, or nothing is trained. certificate:
    what the table's validation says of its predictions, if a confidence is asked for. timing: how
    the finalists are timed (`flashnas.profiling`), or None. known: the networks of earlier runs
    that the search starts from, or None. note: receives lines for the user while parts are loaded.
    notes: lines on how networks are ranked, once nothing is wrong. started: by time.monotonic.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    fitter: Fitter[Any]
    sampler: str | type[SearchAlgorithm]
    recipe: Recipe | None = None
    evaluator: UserEvaluator | None = None
    certificate: Certificate | None = None
    timing: Any = None
    known: KnownRuns | None = None
    note: Callable[[str], None] = field(default=lambda _: None, repr=False)
    notes: list[str] = field(default_factory=list)
    started: float = 0.0

    @property
    def model(self) -> LatencyModel | None:
        return self.costs.model if isinstance(self.costs, TableCosts) else None

    @property
    def sampler_name(self) -> str:
        return sampler_name(self.sampler)

    @property
    def function_names(self) -> tuple[str | None, str | None]:
        """Of the user's evaluator and cost function."""
        function = self.costs.function if isinstance(self.costs, OwnCosts) else None
        return (
            None if self.evaluator is None else evaluator_name(self.evaluator),
            None if function is None else evaluator_name(function),
        )

    def foreign(self) -> tuple[tuple[str, object], ...]:
        """What may be code of another package, for `foreign_errors`."""
        own = (
            ()
            if self.sampler in ALGORITHMS.shipped
            else (("sampler", algorithm_class(self.sampler)),)
        )
        return *own, ("space", self.space)

    # -- what is searched --------------------------------------------------------------------------

    def algorithm(self) -> SearchAlgorithm:
        """A fresh one. Raises ConfigError for an unknown sampler or option, or one that the space
        cannot serve."""
        config = self.config
        with foreign_errors(*self.foreign()):
            return make_algorithm(
                self.sampler if config.trials else "random",
                space=self.space,
                seed=config.seed,
                latency_of=self.fitter.latency_of,
                cycle_size=config.cycle_size,
                goals=self._goals(),
                **(config.sampler_options if config.trials else {}),
            )

    def _goals(self) -> Goals | None:
        """None for one trained quality against a latency_ms that is known."""
        names, costs = self.config.objectives, self.costs
        if costs.known and names[1] == "latency_ms" and len(names) == 2:
            return None
        exact = [name for name in names if name not in QUALITY] if costs.known else []
        return Goals(
            tuple(name in exact for name in names),
            lambda network: tuple(
                minimised(
                    name, metric_of(name, {**costs.metrics(network), **self.foresee(network, None)})
                )
                for name in exact
            ),
        )

    @functools.cached_property
    def baselines(self) -> list[tuple[str, Any | None]]:
        """(label, network or None where no width meets the budgets): the best pure stack of each
        mixer, where published trainings say which that is; else the layouts of the space."""
        if not self.config.baselines:
            return []
        if (foresight := self.foresight) is not None and isinstance(self.space, OperatorSpace):
            return list(pure_stacks(self.fitter, foresight.value))
        return [(label, self.fitter.largest(sizes)) for label, sizes in self.space.baselines()]

    @functools.cached_property
    def new_baselines(self) -> dict[str, Any]:
        """The baselines without a known score, by hash."""
        return {
            network.hash: network
            for _, network in self.baselines
            if network is not None and self.scores.score(network) is None
        }

    def known_networks(self) -> list[tuple[Any, Any, str]]:
        """Genotype, network and source of the known networks of the space within the budgets, each
        once.
        """
        networks: dict[str, tuple[Any, Any, str]] = {}
        for genotype, network, label in self.scores.networks(self.space):
            scored = network.hash not in networks and self.scores.score(network)
            if scored and self.fitter.fits_network(network):
                networks[network.hash] = genotype, network, label
        return list(networks.values())

    # -- what published trainings say --------------------------------------------------------------

    @functools.cached_property
    def foresight(self) -> Foresight | None:
        """The models, and the network to which standard deviations are taken; None where short
        losses rank. Raises ConfigError where the file of own trainings is wrong. notes receives a
        line where short trainings say nothing to the model, and where own trainings contradict."""
        config, recipe = self.config, self.recipe
        if config.rank_by == "short":
            return None
        model, recall, source = load_models(config.evidence, self.notes.append)
        tokens = config.planned_tokens

        def value_of(networks: Sequence[Any]) -> np.ndarray:
            return np.asarray(
                model.predict_networks(networks, tokens).mean + silence(model, networks, tokens)
            )

        stacks = [network for _, network in pure_stacks(self.fitter, value_of)]
        if not stacks:
            fastest = self.fitter.fastest(config.seed)
            assert fastest is not None, "metrics are known wherever the full loss ranks"
            stacks = [fastest[0]]
        read = recipe_read(recipe)
        if recipe is not None and read is None:
            self.notes.append(
                f"the loss of recipe {recipe.name!r} with these settings was not held against"
                " published trainings: the full loss rests on them alone; rank_by: short"
                " ranks by the trainings"
            )
        return Foresight(
            model, recall, tokens, stacks[int(np.argmin(value_of(stacks)))], read, source
        )

    def foresee(self, network: Any, loss: float | None) -> Mapping[str, Any]:
        """What is expected of a full training, as fields of a Trial; loss: of the short
        training.
        """
        return {} if self.foresight is None else self.foresight.figures(network, loss)

    @functools.cached_property
    def foretold(self) -> Foretold | None:
        """The networks that published trainings expect to be good; None where they do not rank."""
        if self.foresight is None or not isinstance(self.space, OperatorSpace):
            return None
        return search_by_evidence(
            self.fitter, self.foresight, seed=self.config.seed, min_recall=self.config.recall_floor
        )

    def evidence_lines(self) -> list[str]:
        """What published trainings alone recommend, where they rank."""
        if (told := self.foretold) is None:
            return []
        place = told.best(self.config.recall_floor)
        assert place is not None, "budgets that no network meets are refused earlier"
        return [
            f"published trainings alone recommend {told.networks[place].notation}, of"
            f" {len(told.networks):,} networks within the budgets"
        ]

    def prior(self) -> Prior | None:
        """What published trainings tell the algorithm; None where they do not rank."""
        foresight, told, recipe = self.foresight, self.foretold, self.recipe
        if foresight is None or told is None or recipe is None:
            return None
        floor = self.config.recall_floor
        order = dict.fromkeys([*told.nearest(floor, NEAR), *reversed(told.front(floor))])
        return Prior(
            value_of=foresight.value,
            moves_of=foresight.moves,
            cost_of=lambda network: training_flops(recipe.proxy_of(network), recipe) / UNIT_FLOPS,
            best=[told.genotypes[place] for place in order],
        )

    # -- how networks are scored -------------------------------------------------------------------

    @functools.cached_property
    def time_limit(self) -> TimeLimit:
        first = [network for _, network in self.baselines if network is not None]
        return find_time_limit(self.config, self.recipe, self.fitter, first, self.note)

    @functools.lru_cache(maxsize=MAX_EXPECTED)  # noqa: B019 - as long as the search
    def expected_s(self, network: Any | None) -> float:
        """Expected seconds of a training on one worker; None: of a network that the search draws. 1
        where nothing says it, such as for an evaluator.
        """
        if self.recipe is None or (network is None and not self.time_limit.candidate_s):
            return 1.0
        return self.time_limit.candidate_s if network is None else expected_s(self.recipe, network)

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
        return Scores(
            config=self.config,
            known=self.known,
            with_metrics=not self.costs.known,
            recipe=self.recipe,
            dataset=self.dataset,
        )

    def job(self, network: Any) -> Job:
        """The evaluation of a network."""
        seed = self.config.seed
        if self.evaluator is not None:
            needed = tuple(
                name
                for name in self.config.objectives
                if name != "loss" and (name in QUALITY or not self.costs.known)
            )
            return Job(architecture=network, evaluator=self.evaluator, needed=needed, seed=seed)
        assert self.recipe is not None
        assert self.dataset is not None
        return Job(
            architecture=network,
            dataset=str(self.dataset.folder),
            recipe=self.recipe.to_dict(),
            seed=seed,
            processes=self.config.processes_per_candidate,
        )
