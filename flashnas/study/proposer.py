"""What a search draws from: its algorithm, its baselines, and what publications say of the networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flashnas.base.registry import foreign_errors
from flashnas.latency.costs import metric_of
from flashnas.search import Goals, SearchAlgorithm, make_algorithm
from flashnas.search.algorithm import Prior
from flashnas.search.objectives import TRAINED, minimised
from flashnas.space import OperatorSpace
from flashnas.study.evidence_search import Foretold, pure_stacks, search_by_evidence
from flashnas.study.foresight import Foresight, load_models, recipe_read, silence
from flashnas.study.parts import Parts
from flashnas.training.cost import training_flops

NEAR = 20               # networks near the recommended one that the algorithm looks at, beside the front
UNIT_FLOPS = 1e12       # of the cost of a training


class Proposer(Parts):
    """The parts, and what follows from them before any network has a score."""

    # -- what is searched ------------------------------------------------------------------------------------

    def algorithm(self, seed: int | None = None) -> SearchAlgorithm:
        """A fresh one. seed: of its draws, if not that of the search. Raises ConfigError for an unknown
        sampler or option, or one that the space cannot serve."""
        config = self.config
        with foreign_errors(*self.foreign()):
            return make_algorithm(self.sampler if config.trials else "random", space=self.space,
                                  seed=config.seed if seed is None else seed,
                                  latency_of=self.fitter.latency_of,
                                  cycle_size=config.cycle_size, goals=self._goals(),
                                  **(config.sampler_options if config.trials else {}))

    def _goals(self) -> Goals | None:
        """None for one trained quality against a latency_ms that is known."""
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
            return list(pure_stacks(self.fitter, foresight.value))
        return [(label, self.fitter.largest(sizes)) for label, sizes in self.space.baselines()]

    # -- what published trainings say ------------------------------------------------------------------------

    @functools.cached_property
    def foresight(self) -> Foresight | None:
        if self.config.rank_by == "short":
            return None
        return foresight_of(self, self.notes.append)

    def foresee(self, network: Any, loss: float | None) -> Mapping[str, Any]:
        """What is expected of a full training, as fields of a Trial; loss: of the short training."""
        return {} if self.foresight is None else self.foresight.figures(network, loss)

    @functools.cached_property
    def foretold(self) -> Foretold | None:
        """The networks that published trainings expect to be good; None where they do not rank."""
        if self.foresight is None or not isinstance(self.space, OperatorSpace):
            return None
        return search_by_evidence(self.fitter, self.foresight, seed=self.config.seed,
                                  min_recall=self.config.recall_floor)

    def evidence_lines(self) -> list[str]:
        """What published trainings alone recommend, where they rank."""
        if (told := self.foretold) is None:
            return []
        place = told.best(self.config.recall_floor)
        assert place is not None, "budgets that no network meets are refused earlier"
        return [f"published trainings alone recommend {told.networks[place].notation}, of"
                f" {len(told.networks):,} networks within the budgets"]

    def prior(self) -> Prior | None:
        """What published trainings tell the algorithm; None where they do not rank."""
        foresight, told, recipe = self.foresight, self.foretold, self.recipe
        if foresight is None or told is None or recipe is None:
            return None
        floor = self.config.recall_floor
        order = dict.fromkeys([*told.nearest(floor, NEAR), *reversed(told.front(floor))])
        return Prior(value_of=foresight.value, moves_of=foresight.moves,
                     cost_of=lambda network: training_flops(recipe.proxy_of(network), recipe) / UNIT_FLOPS,
                     best=[told.genotypes[place] for place in order])


def foresight_of(parts: Parts, note: Callable[[str], None]) -> Foresight:
    """The models of a search, and the network to which its standard deviations are taken; raises ConfigError
    where the file of own trainings is wrong. note receives a line where short trainings say nothing to the
    model, and where own trainings contradict."""
    config, recipe, fitter = parts.config, parts.recipe, parts.fitter
    model, recall, source = load_models(config.evidence, note)
    tokens = config.planned_tokens

    def value_of(networks: Sequence[Any]) -> np.ndarray:
        return np.asarray(model.predict_networks(networks, tokens).mean + silence(model, networks, tokens))

    stacks = [network for _, network in pure_stacks(fitter, value_of)]
    if not stacks:
        fastest = fitter.fastest(config.seed)
        assert fastest is not None, "metrics are known wherever the full loss ranks"
        stacks = [fastest[0]]
    read = recipe_read(recipe)
    if recipe is not None and read is None:
        note(f"the loss of recipe {recipe.name!r} with these settings was not held against published"
             " trainings: the full loss rests on them alone; --rank-by short ranks by the trainings")
    return Foresight(model, recall, tokens, stacks[int(np.argmin(value_of(stacks)))], read, source)
