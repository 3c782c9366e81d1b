"""From the options of a search to its `Problem`, from top to bottom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError, MissingRowsError
from flashnas.base.registry import foreign_errors
from flashnas.latency.fitting import CostFunction, Costs, Fitter, TableCosts
from flashnas.latency.prediction import LatencyModel, model_of
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.space import OperatorSpace, SearchSpace, load_space
from flashnas.space.load import check_space
from flashnas.space.served import ServedSpace
from flashnas.study.config import NO_EVIDENCE, TRIALS, WINDOW_RECALL, SearchConfig
from flashnas.study.limits import bounds_of, limited, rules_of, vocab_of
from flashnas.study.own_objects import check_networks, check_objects, check_scorer, load_own_costs
from flashnas.study.problem import (
    BAYES,
    PROPOSALS,
    Baselines,
    Note,
    Problem,
    planned,
    sampler_of,
)
from flashnas.study.scorer import EvidenceScorer, Scorer, load_scorer
from flashnas.trials.objectives import FULL, QUALITY, RECALL

if TYPE_CHECKING:
    from flashnas.run_folder.earlier_runs import EarlierRuns

# options that say how is trained
OF_TRAININGS = ("recipe", "data", "tokens", "tokenizer", "candidate_timeout_s")


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
    plan: bool = False,
) -> Problem:
    """Load and check all parts of a search.

    Args:
        evaluator, space, table, workload, recipe, sampler, scorer: objects that take the place of
            the names in `config`, and of published trainings, as `fn.search` describes them. A space
            whose networks are not `flashnas.Architecture` needs an evaluator, and no latency table.
        dtype: in which the run that is continued multiplies matrices.
        plan: the device of the trainings may be elsewhere.

    Raises:
        FlashnasError: in one line, for whatever cannot work.
    """
    started = time.monotonic()
    check_objects(space, sampler, evaluator, table)
    space = load_space(config.space) if space is None else space
    with foreign_errors(("space", space), ("scorer", scorer), direct=False):
        notes = list[str]()
        space, costs = load_searched(
            config, space, table or config.table, workload, evaluator, notes.append
        )
        notes += costs.notes()
        earlier = load_earlier(config, space)
        scorer = load_what_ranks(config, space, costs, earlier, evaluator, scorer)
        sampler = config.sampler if sampler is None else sampler
        trained = evaluator is not None or config.evidence == NO_EVIDENCE
        train_each = evaluator is not None or (trained and sampler not in (None, BAYES))
        trials = trials_of(config, scorer, trained=trained)
        fitter = load_fitter(config, space, costs)
        quality = "loss" if trained else FULL
        objectives = tuple(quality if name in QUALITY else name for name in config.objectives)
        problem = Problem(
            config=config,
            space=space,
            costs=costs,
            fitter=fitter,
            objectives=objectives,
            sampler=sampler,
            scorer=scorer,
            min_recall=floor_of(config, space, trained=trained),
            train_each=train_each,
            proposals=trials if train_each else PROPOSALS,
            trainings=None,
            earlier=earlier,
            baselines=load_baselines(config, space, fitter, trained=trained),
            notes=notes,
            started=started,
        )
        if trials:
            from flashnas.study.trainable import with_trainings

            problem = with_trainings(problem, trials, evaluator, recipe, dtype=dtype, plan=plan)
        else:
            note_unused(config, notes.append)
    sampler_of(problem)  # its options are checked before anything is written
    return problem


def note_unused(config: SearchConfig, note: Note) -> None:
    """A line where an option says how is trained and nothing is."""
    unused = [name for name in OF_TRAININGS if changed(config, name)]
    if config.recipe is not None:
        from flashnas.training.recipe import Recipe

        Recipe.load(config.recipe)  # a wrong name is said all the same
    if unused:
        note(f"nothing is trained without --trials N: {unused[0]} changes nothing")


def load_searched(
    config: SearchConfig,
    space: SearchSpace[Any],
    table: Any,
    workload: Any,
    evaluator: Any,
    note: Note,
) -> tuple[SearchSpace[Any], Costs]:
    """The space with the vocabulary that is asked for, limited to what is asked, and what its
    networks cost."""
    check_space(space)
    if (vocab := vocab_of(config)) is not None:
        if not isinstance(space, OperatorSpace):
            config.wrong("vocab", f"needs a space of flashnas' operators; got {space.name!r}")
        space = space.with_vocab(vocab)
    if isinstance(space, ServedSpace):
        space = limited(config, space)
    table = config.table if table is None else table
    costs = load_costs(config, table, workload, evaluated=evaluator is not None)
    timed = isinstance(costs, TableCosts)
    if not isinstance(space, OperatorSpace):
        check_networks(space, trained=evaluator is None, timed=timed)
    elif isinstance(costs, TableCosts):
        if isinstance(space, ServedSpace):
            space = answerable(space, costs.model, note)
        check_answerable(space, costs.model)
    return space, costs


def answerable(space: ServedSpace, model: LatencyModel, note: Note) -> ServedSpace:
    """The space without families that the table does not answer for, unless that is all."""
    lacking: dict[str, str] = {}
    for name in space.families:
        try:
            check_answerable(space.restricted(families=[name]), model)
        except MissingRowsError as error:
            lacking[name] = str(error)
    if not lacking or len(lacking) == len(space.families):
        return space
    for name, reason in lacking.items():
        note(f"family {name} is left out: {reason}")
    return space.restricted(families=[name for name in space.families if name not in lacking])


def load_fitter(config: SearchConfig, space: SearchSpace[Any], costs: Costs) -> Fitter[Any]:
    """Fits widths to the budgets. Raises BudgetError where no network of the space meets them
    (`Fitter.feasible`)."""
    fitter = Fitter(space, costs, bounds_of(config, costs), rules_of(config, space))
    if fitter.budgets or fitter.rules:
        fitter.feasible(config.seed)
    return fitter


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
        check_scorer(scorer, space.any_network(), evaluator)
        return scorer
    if evaluator is not None:
        check_without_evidence(config, "an evaluator scores the networks")
        return None
    published = config.evidence != NO_EVIDENCE
    if published and not isinstance(space, OperatorSpace):
        raise ConfigError(
            f"space {space.name!r}: publications rank networks of flashnas' operators; train those"
            " of this space with --evidence none, or give an evaluator"
        )
    if not published:
        check_without_evidence(config, "evidence none leaves publications out")
    known = () if earlier is None else earlier.observed()
    own = config.evidence if published else None
    training = planned(config, costs)
    return load_scorer(own, training, published=published, known=known)


def floor_of(config: SearchConfig, space: SearchSpace[Any], *, trained: bool) -> float | None:
    """The least recall of a network: that is asked for; else, where publications rank and layers may
    have windows, WINDOW_RECALL."""
    if config.min_recall is None and not trained and isinstance(space, ServedSpace):
        return WINDOW_RECALL if any(spec.window_tokens for spec in space.kinds()) else None
    return config.min_recall


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


def changed(config: SearchConfig, name: str) -> bool:
    """Whether an option is not at its default."""
    return bool(getattr(config, name) != config.setting(name).default)


def load_baselines(
    config: SearchConfig, space: SearchSpace[Any], fitter: Fitter[Any], *, trained: bool
) -> Baselines:
    """The layouts of the space that are trained beside its networks."""
    if not config.baselines:
        return []
    if not trained:
        config.wrong("baselines", "are trained where nothing else ranks: with --evidence none")
    return [(label, fitter.largest(sizes)[0]) for label, sizes in space.baselines()]


def check_answerable(space: OperatorSpace[Any], model: LatencyModel) -> None:
    """Raise MissingRowsError when the table lacks what the space needs."""
    try:
        model.columns(list(space.probes()), ("latency_ms",))
    except MissingRowsError as error:
        raise MissingRowsError(
            f"table {model.table.name!r} does not cover space {space.name!r}: {error}"
        ) from None


def load_costs(
    config: SearchConfig,
    table: str | LatencyTable | CostFunction | None,
    workload: Workload | None,
    *,
    evaluated: bool,
) -> Costs:
    """The costs by a latency table, by the user's function, or none. evaluated: by a user's
    function. Raises ConfigError for what only a latency table can answer."""
    if isinstance(table, str | LatencyTable):
        workload = load_workload(config.workload if workload is None else workload)
        workload = workload.with_weights(config.weights)
        model = model_of(table, workload, calibration=config.calibration, programs=config.runtime)
        if config.times:
            from flashnas.observations.correction import corrected

            model = corrected(model, *config.times)
        return TableCosts(model, (*config.budgets, *config.objectives))
    return load_own_costs(config, table, evaluated=evaluated)
