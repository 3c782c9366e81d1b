"""The problem of a search: what is searched, for what, within which limits, and what is known of it.

`load_problem` builds it from top to bottom. Nothing of it changes afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flashnas.algorithms import (
    ALGORITHMS,
    Goals,
    SearchAlgorithm,
    algorithm_class,
    make_algorithm,
    sampler_name,
)
from flashnas.algorithms.objectives import QUALITY, RECALL, minimised
from flashnas.base.registry import foreign_errors
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import Job, UserEvaluator, evaluator_name
from flashnas.latency.fitting import Costs, Fitter, OwnCosts, TableCosts, metric_of
from flashnas.latency.prediction import LatencyModel
from flashnas.run_folder.earlier_runs import EarlierRuns, earlier_runs
from flashnas.space import OperatorSpace, SearchSpace, load_space
from flashnas.space.load import check_space
from flashnas.study.config import SearchConfig
from flashnas.study.explore import pure_stacks
from flashnas.study.limits import (
    Limits,
    check_answerable,
    check_networks,
    load_costs,
    load_limits,
)
from flashnas.study.own_objects import check_objects, check_scorer
from flashnas.study.progress import TimeLimit, find_time_limit
from flashnas.study.scorer import Scorer, load_scorer
from flashnas.study.trainings import check_comparable, load_trainings
from flashnas.training.recipe import Recipe

Note = Callable[[str], None]
Baselines = list[tuple[str, Any | None]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One search, with everything loaded and checked.

    limits: which networks are allowed. scorer: ranks the networks; None where short losses do.
    recipe: of the short trainings; None where an evaluator scores, or nothing is trained. dataset:
    their text. earlier: runs whose networks need no training. baselines: label, and network or None
    where no width meets the budgets. notes: lines on how networks are ranked. started: by
    time.monotonic.
    """

    config: SearchConfig
    space: SearchSpace[Any]
    costs: Costs
    limits: Limits
    sampler: str | type[SearchAlgorithm]
    evaluator: UserEvaluator | None
    scorer: Scorer | None
    recipe: Recipe | None
    dataset: Dataset | None
    earlier: EarlierRuns | None
    baselines: Baselines
    time_limit: TimeLimit
    notes: list[str]
    started: float

    @property
    def fitter(self) -> Fitter[Any]:
        return self.limits.fitter

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
        things = ("space", self.space), ("scorer", self.scorer)
        if self.sampler in ALGORITHMS.shipped:
            return things
        return ("sampler", algorithm_class(self.sampler)), *things

    def with_dtype(self, recorded: str | None) -> Problem:
        """The problem with the type of its trainings: the one `recorded` in the run that is
        continued, else the one that their device multiplies faster."""
        if self.recipe is None:
            return self
        recipe = self.recipe.with_dtype(recorded)
        note = f"trainings multiply matrices in {recipe.dtype}"
        return dataclasses.replace(self, recipe=recipe, notes=[*self.notes, note])

    # -- networks ----------------------------------------------------------------------------------

    def changes(self, network: Any) -> bool:
        """Whether a training of the network may change the answer."""
        if self.config.trials == 0:
            return False
        if self.scorer is None or self.config.train_anyway:
            return True
        return bool(self.scorer.step_sds([network])[0] > 0)

    @functools.cached_property
    def new_baselines(self) -> dict[str, Any]:
        """The baselines that are trained, by hash."""
        return {
            network.hash: network
            for _, network in self.baselines
            if network is not None and self.changes(network) and self.score(network) is None
        }

    def score(self, network: Any) -> dict[str, Any] | None:
        """The score that an earlier run has of a network, or None."""
        if self.earlier is None:
            return None
        return self.earlier.score(network, metrics=not self.costs.known)

    def scored_networks(self) -> list[tuple[Any, Any, str]]:
        """Genotype, network and source of the networks of the space within the budgets that have a
        score."""
        found = () if self.earlier is None else self.earlier.within(self.space)
        return [entry for entry in found if self.fitter.fits_network(entry[1])]

    def expected_figures(self, network: Any, loss: float | None) -> Mapping[str, Any]:
        """What is expected of a full training, as fields of a Trial; loss: of the short training."""
        return {} if self.scorer is None else self.scorer.figures(network, loss)

    # -- the algorithm and its evaluations ---------------------------------------------------------

    def algorithm(self) -> SearchAlgorithm:
        """A fresh one, which proposes networks whose training may change the answer. Raises
        ConfigError for an unknown sampler or option, or one that the space cannot serve."""
        config = self.config
        with foreign_errors(*self.foreign()):
            return make_algorithm(
                self.sampler,
                space=self.space,
                seed=config.seed,
                latency_of=self._latency_of,
                cycle_size=config.cycle_size,
                goals=self._goals(),
                **config.sampler_options,
            )

    def _latency_of(self, genotype: Any) -> tuple[Any | None, float | None]:
        network, latency_ms = self.fitter.latency_of(genotype)
        if network is not None and not self.changes(network):
            return None, latency_ms
        return network, latency_ms

    def _goals(self) -> Goals | None:
        """None for one trained quality against a latency_ms that is known."""
        names, costs = self.config.objectives, self.costs
        if costs.known and names[1] == "latency_ms" and len(names) == 2:
            return None
        exact = [name for name in names if name not in QUALITY] if costs.known else []

        def exact_of(network: Any) -> tuple[float, ...]:
            figures = {**costs.metrics(network), **self.expected_figures(network, None)}
            return tuple(minimised(name, metric_of(name, figures)) for name in exact)

        return Goals(tuple(name in exact for name in names), exact_of)

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
        )


def load_problem(
    config: SearchConfig,
    *,
    note: Note,
    evaluator: Any = None,
    space: Any = None,
    table: Any = None,
    workload: Any = None,
    recipe: Any = None,
    sampler: Any = None,
    scorer: Scorer | None = None,
    plan: bool = False,
) -> Problem:
    """Load and check all parts of a search.

    Args:
        note: receives lines for the user while parts are loaded.
        evaluator, space, table, workload, recipe, sampler, scorer: objects that take the place of
            the names in `config`, and of published trainings, as `fn.search` describes them. A space
            whose networks are not `flashnas.Architecture` needs an evaluator, and no latency table.
        plan: the device of the trainings may be elsewhere.

    Raises:
        FlashnasError: in one line, for whatever cannot work.
    """
    started = time.monotonic()
    if any(own is not None for own in (space, sampler, evaluator, table)):
        check_objects(space, sampler, evaluator, table)
    space = load_space(config.space) if space is None else space
    table = config.table if table is None else table
    with foreign_errors(("space", space), ("scorer", scorer), direct=False):
        config, space, costs = load_searched(config, space, table, workload, evaluator)
        notes = costs.notes()
        config = ranked(config, space, notes, costed=costs.known, evaluated=evaluator is not None)
        if scorer is not None:
            check_scorer(scorer, space.any_network(), config.rank_by)
        limits = load_limits(config, space, costs)
        earlier = earlier_runs(config.start_from, space) if config.start_from else None
        if evaluator is not None or not config.trials:
            recipe = None
        else:
            config, recipe = load_trainings(
                config, space, recipe, earlier, notes, own_scorer=scorer is not None, plan=plan
            )
        if scorer is None and config.rank_by == "full":
            scorer = load_scorer(config.evidence, config.planned_tokens, recipe, notes.append)
        dataset = recipe and prepare_dataset(config.data, recipe, config.tokenizer)
        for line in dataset.notes if dataset else ():
            note(line)
        if earlier is not None and config.trials:
            check_comparable(earlier, config, recipe, dataset, evaluator)
        baselines = load_baselines(config, space, limits.fitter, scorer)
        first = [network for _, network in baselines if network is not None]
        problem = Problem(
            config=config,
            space=space,
            costs=costs,
            limits=limits,
            sampler=config.sampler if sampler is None else sampler,
            evaluator=evaluator,
            scorer=scorer,
            recipe=recipe,
            dataset=dataset,
            earlier=earlier,
            baselines=baselines,
            time_limit=find_time_limit(config, recipe, limits.fitter, first, note),
            notes=notes,
            started=started,
        )
        if config.trials or config.sampler_options:
            problem.algorithm()  # its options are checked before anything is trained
    return problem


def load_searched(
    config: SearchConfig, space: SearchSpace[Any], table: Any, workload: Any, evaluator: Any
) -> tuple[SearchConfig, SearchSpace[Any], Costs]:
    """The space with the vocabulary that is asked for, and what its networks cost; the name of the
    table enters the configuration."""
    check_space(space)
    if config.vocab is not None:
        if not isinstance(space, OperatorSpace):
            config.wrong("vocab", f"needs a space of flashnas' operators; got {space.name!r}")
        space = space.with_vocab(config.vocab)
    costs = load_costs(config, table, workload, evaluated=evaluator is not None)
    timed = isinstance(costs, TableCosts)
    check_networks(space, trained=evaluator is None, timed=timed)
    if isinstance(costs, TableCosts):
        name = table if isinstance(table, str) else costs.model.table.name
        config = dataclasses.replace(config, table=name)
        check_answerable(space, costs.model, config)
    return config, space, costs


def ranked(
    config: SearchConfig,
    space: SearchSpace[Any],
    notes: list[str],
    *,
    costed: bool,
    evaluated: bool,
) -> SearchConfig:
    """The configuration with the ranking that is possible: `full`, or `short` where nothing is known
    of full trainings, which is noted unless it is plain.

    Args:
        notes: takes that line.
        costed: the latency is known.
        evaluated: by a user's function.

    Raises:
        SettingError: an option needs the other ranking.
    """
    why = (
        "an evaluator scores the networks"
        if evaluated
        else "its networks are not of flashnas' operators"
        if not isinstance(space, OperatorSpace)
        else "nothing is known of the latency"
        if not costed
        else ""
    )
    if config.rank_by == "full" and not why:
        return config.ranked_by("full")
    needs = "needs rank_by full" + (f"; here {why}" if why else "")
    if config.trials == 0:
        config.wrong("trials", f"0 answers from published trainings alone, which {needs}")
    for name in ("min_recall", "evidence"):
        if getattr(config, name) is not None:
            config.wrong(name, needs)
    if RECALL in config.objectives:
        config.wrong("objectives", f"has {RECALL}, which {needs}")
    if config.rank_by == "full" and not evaluated and isinstance(space, OperatorSpace):
        notes.append(f"ranked by the loss of short trainings, because {why}")
    return config.ranked_by("short")


def load_baselines(
    config: SearchConfig,
    space: SearchSpace[Any],
    fitter: Fitter[Any],
    scorer: Scorer | None,
) -> Baselines:
    """The best pure stack of each mixer, where a scorer says which that is; else the layouts of the
    space."""
    if not config.baselines:
        return []
    if scorer is not None and isinstance(space, OperatorSpace):
        return list(pure_stacks(fitter, scorer.values))
    return [(label, fitter.largest(sizes)) for label, sizes in space.baselines()]
