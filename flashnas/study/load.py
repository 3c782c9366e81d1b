"""From the options of a search to its `Problem`, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import shown
from flashnas.latency.fitting import CostFunction, Costs, Fitter, TableCosts
from flashnas.latency.prediction import model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.samplers import SAMPLERS
from flashnas.space import OperatorSpace, SearchSpace, load_space
from flashnas.space.load import check_space
from flashnas.study.config import NO_EVIDENCE, TRIALS, SearchConfig
from flashnas.study.limits import bounds_of, fitter_of, floor_of, vocab_of
from flashnas.study.problem import (
    BAYES,
    PROPOSALS,
    Baselines,
    Problem,
    planned,
    sampler_of,
    schedule_of,
)
from flashnas.study.scorer import EvidenceScorer, Scorer, load_scorer
from flashnas.trials.pareto import FULL, QUALITY, RECALL

if TYPE_CHECKING:
    from flashnas.run_folder.earlier_runs import EarlierRuns

# options that say how is trained
OF_TRAININGS = ("recipe", "data", "tokens", "tokenizer", "candidate_timeout_s")


def check_evaluator(evaluator: Any) -> None:
    """Raises ConfigError for what cannot be called."""
    if evaluator is not None and not callable(evaluator):
        rule = f"a function network -> loss, or a mapping with it; got {shown(evaluator)}"
        raise ConfigError(f"search.evaluator must be {rule}")


def load_problem(
    config: SearchConfig,
    *,
    evaluator: Any = None,
    space: Any = None,
    table: Any = None,
    workload: Any = None,
    recipe: Any = None,
    sampler: Any = None,
    scorer: Scorer | None = None,
    dtype: str | None = None,
    schedule: Mapping[str, int] | None = None,
) -> Problem:
    """Load and check all parts of a search.

    Args:
        evaluator, space, table, workload, recipe, sampler, scorer: objects that take the place of
            the names in `config`, and of published trainings, as `fn.search` describes them. A space
            whose networks are not `flashnas.Architecture` needs an evaluator, and no latency table.
        dtype: in which the run that is continued multiplies matrices. schedule: that it has.

    Raises:
        FlashnasError: in one line, for whatever cannot work.
    """
    started = time.monotonic()
    check_evaluator(evaluator)
    space = load_space(config.space) if space is None else space
    notes = list[str]()
    with foreign_errors(("space", space), ("scorer", scorer), direct=False):
        check_space(space)
        space = with_vocab(config, space)
        costs = load_costs(config, table or config.table, workload, evaluated=evaluator is not None)
        if not isinstance(space, OperatorSpace):
            from flashnas.study.own_objects import check_networks

            check_networks(space, trained=evaluator is None, timed=isinstance(costs, TableCosts))
        fitter = fitter_of(config, space, costs, bounds_of(config, costs), notes.append)
        space, earlier = fitter.space, load_earlier(config, fitter.space)
        notes += costs.notes()
        scorer = load_what_ranks(config, space, costs, earlier, evaluator, scorer)
        sampler = sampler or (config.sampler and SAMPLERS[config.sampler])
        trained = evaluator is not None or config.evidence == NO_EVIDENCE
        name = BAYES if sampler is None else sampler.name
        train_each = evaluator is not None or (trained and name != BAYES)
        trials = trials_of(config, scorer, trained=trained)
        fitter.feasible(config.seed)
        problem = Problem(
            config=config,
            space=space,
            costs=costs,
            fitter=fitter,
            objectives=objectives_of(config, trained=trained),
            sampler=sampler,
            scorer=scorer,
            min_recall=config.min_recall if trained else floor_of(config, space),
            train_each=train_each,
            schedule=load_schedule(config, schedule_of(trials if trained else None), schedule),
            proposals=trials if train_each else PROPOSALS,
            earlier=earlier,
            baselines=load_baselines(config, fitter, trained=trained),
            notes=notes,
            started=started,
        )
        if trials:
            from flashnas.study.trainable import with_trainings

            problem = with_trainings(problem, trials, evaluator, recipe, dtype=dtype)
        elif unused := [name for name in OF_TRAININGS if changed(config, name)]:
            notes.append(f"nothing is trained without --trials N: {unused[0]} changes nothing")
    sampler_of(problem)  # its options are checked before anything is written
    return problem


def objectives_of(config: SearchConfig, *, trained: bool) -> tuple[str, ...]:
    """Those that are asked for, with the loss that ranks."""
    quality = "loss" if trained else FULL
    return tuple(quality if name in QUALITY else name for name in config.objectives)


def with_vocab(config: SearchConfig, space: SearchSpace[Any]) -> SearchSpace[Any]:
    """The space with the vocabulary that is asked for."""
    if (vocab := vocab_of(config)) is None:
        return space
    if not isinstance(space, OperatorSpace):
        config.wrong("vocab", f"needs a space of flashnas' operators; got {space.name!r}")
    return space.with_vocab(vocab)


def load_earlier(config: SearchConfig, space: SearchSpace[Any]) -> EarlierRuns | None:
    """The runs that the search starts from."""
    if not config.start_from:
        return None
    from flashnas.run_folder.earlier_runs import earlier_runs

    return earlier_runs(config.start_from, space)


def load_what_ranks(
    config: SearchConfig,
    space: SearchSpace[Any],
    costs: Costs,
    earlier: EarlierRuns | None,
    evaluator: Any,
    scorer: Scorer | None,
) -> Scorer | None:
    """The user's scorer; or publications and own trainings, or these alone; None where the losses
    of an evaluator rank."""
    if config.train_hours is not None and (scorer is not None or evaluator is not None):
        config.wrong("train_hours", "needs the losses to expect of observed trainings to rank")
    if scorer is not None:
        from flashnas.study.own_objects import check_scorer

        check_scorer(scorer, space.any_network(), evaluator)
        return scorer
    if evaluator is not None:
        check_without_evidence(config, "an evaluator scores the networks")
        return None
    published = config.evidence != NO_EVIDENCE
    if not published:
        check_without_evidence(config, "evidence none leaves publications out")
    elif not isinstance(space, OperatorSpace):
        raise ConfigError(
            f"space {space.name!r}: publications rank networks of flashnas' operators; train those"
            " of this space with --evidence none, or give an evaluator"
        )
    known = () if earlier is None else earlier.observed()
    own = config.evidence if published else None
    return load_scorer(own, planned(config, costs), published=published, known=known)


def check_without_evidence(config: SearchConfig, why: str) -> None:
    """Raise SettingError for an option that only publications serve."""
    for name in ("min_recall", "as_good_as"):
        if changed(config, name):
            config.wrong(name, f"needs publications; here {why}")
    if config.evidence not in (None, NO_EVIDENCE):
        config.wrong("evidence", f"is of searches that publications rank; here {why}")
    for name in (RECALL, FULL):
        if name in config.objectives:
            config.wrong("objectives", f"has {name}, which needs publications; here {why}")


def trials_of(config: SearchConfig, scorer: Scorer | None, *, trained: bool) -> int:
    """How many networks are trained. Raises SettingError for trainings or evidence that such a
    search cannot have."""
    trials = config.trials if config.trials is not None else TRIALS * trained
    if scorer is not None and not isinstance(scorer, EvidenceScorer):
        own = f"scorer {type(scorer).__name__} reads none"
        if config.evidence is not None:
            config.wrong("evidence", f"must be left out, because {own}; got {config.evidence}")
        if trials:
            config.wrong("trials", f"must be 0, because {own}; got {trials}")
    if trained and not trials:
        config.wrong("trials", "must be at least 1 where nothing but trainings ranks; got 0")
    return trials


def load_schedule(
    config: SearchConfig, derived: Mapping[str, int], before: Mapping[str, int] | None
) -> Mapping[str, int]:
    """That of the run that is continued, or the derived one with the cycle that is asked for. Raises
    SettingError for another cycle than that of the run."""
    cycle = config.cycle_size
    if before is None:
        return {**derived, "cycle_size": cycle or derived["cycle_size"]}
    if cycle not in (None, before["cycle_size"]):
        rule = f"must be {before['cycle_size']}, as this run was started with"
        config.wrong("cycle_size", f"{rule}; got {cycle}")
    return before


def changed(config: SearchConfig, name: str) -> bool:
    """Whether an option is not at its default."""
    return bool(getattr(config, name) != config.setting(name).default)


def load_baselines(config: SearchConfig, fitter: Fitter[Any], *, trained: bool) -> Baselines:
    """The layouts of the space that are trained beside its networks."""
    if not config.baselines:
        return []
    if not trained:
        config.wrong("baselines", "are trained where nothing else ranks: with --evidence none")
    return [(label, fitter.largest(sizes)[0]) for label, sizes in fitter.space.baselines()]


def load_costs(
    config: SearchConfig,
    table: str | LatencyTable | CostFunction | None,
    workload: Workload | None,
    *,
    evaluated: bool,
) -> Costs:
    """The costs by a latency table, by the user's function, or none. evaluated: by a user's
    function. Raises ConfigError for what only a latency table can answer."""
    if not isinstance(table, str | LatencyTable):
        from flashnas.study.own_objects import load_own_costs

        return load_own_costs(config, table, evaluated=evaluated)
    workload = load_workload(config.workload if workload is None else workload)
    model = model_of(table, workload, calibration=config.calibration, programs=config.runtime)
    if config.times:
        from flashnas.observations.correction import corrected

        model = corrected(model, *config.times)
    return TableCosts(model, (*config.budgets, *config.objectives))
