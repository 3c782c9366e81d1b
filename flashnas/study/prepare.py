"""From a SearchConfig to a question whose every part is loaded and checked; nothing is written, nothing trained."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import BenchError, BudgetError, ConfigError, RunError, TableError
from flashnas.base.registry import foreign_errors
from flashnas.bench.answers import Answers, find_answers
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.executors.job import UserEvaluator, evaluator_name, fidelities_of, takes_seed
from flashnas.latency.certificate import TIMES, Certificate
from flashnas.latency.costs import CostFunction, Costs, NoCosts, OwnCosts, TableCosts
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import LARGER_IS_BETTER, Budget
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload, load_workload
from flashnas.reuse.known import KnownRuns, difference, known_runs, training, training_of
from flashnas.search import SearchAlgorithm
from flashnas.search.objectives import QUALITY, RECALL, task_scores
from flashnas.space import OperatorSpace, SearchSpace, load_space
from flashnas.study.checks import (
    check_answerable,
    check_networks,
    check_scalable,
    check_space,
    check_without_table,
)
from flashnas.study.config import SearchConfig
from flashnas.study.foresight import foresight_of
from flashnas.study.question import Question
from flashnas.study.rungs import Rungs, find_rungs, rungs_of
from flashnas.study.time_limit import find_time_limit
from flashnas.training.recipe import Recipe

if TYPE_CHECKING:  # they load torch
    from flashnas.profiling.program import Program
    from flashnas.profiling.setup import Setup

DEFAULT_RECIPE = "cpu"

Note = Callable[[str], None]


def prepare(config: SearchConfig, *, note: Note, evaluator: UserEvaluator | None = None,
            space: SearchSpace[Any] | None = None,
            table: LatencyTable | CostFunction | None = None, workload: Workload | None = None,
            recipe: Recipe | None = None, sampler: type[SearchAlgorithm] | None = None) -> Question:
    """Load and check all parts of a search; objects take the place of the names in `config`.

    Args: as `flashnas.study.search.run_search`; `note` receives lines for the user.

    Raises:
        FlashnasError: in one line, for whatever cannot work.
    """
    started = time.time()
    config = config.with_seeds(evaluator is None or takes_seed(evaluator))
    space = load_space(config.space) if space is None else space
    if not isinstance(space, SearchSpace):
        raise ConfigError(f"search.space must be a name, a YAML file or a SearchSpace; got {type(space).__name__}")
    if sampler is not None and not (isinstance(sampler, type) and issubclass(sampler, SearchAlgorithm)):
        raise ConfigError(f"search.sampler must be a name or a SearchAlgorithm class; got {sampler!r:.60}")
    if evaluator is not None and not callable(evaluator):
        raise ConfigError(f"search.evaluator must be a function network -> loss, or a mapping with it; got"
                          f" {evaluator!r:.60}")
    if not (table is None or callable(table) or isinstance(table, LatencyTable)):
        raise ConfigError(f"search.table must be a name, a folder, a LatencyTable or a function; got {table!r:.60}")
    with foreign_errors(("space", space), direct=False):
        return _prepared(config, started, space, note, evaluator, table, workload, recipe, sampler)


def _prepared(config: SearchConfig, started: float, space: SearchSpace[Any], note: Note,
              evaluator: UserEvaluator | None, table: LatencyTable | CostFunction | None, workload: Workload | None,
              recipe: Recipe | None, sampler: type[SearchAlgorithm] | None) -> Question:
    check_space(space)
    source: str | LatencyTable | CostFunction | None = config.table if table is None else table
    if isinstance(source, LatencyTable):
        config = dataclasses.replace(config, table=source.name)
    budgets = tuple(Budget(figure, limit) for figure, limit in config.budgets.items())
    costs: Costs
    if isinstance(source, str | LatencyTable):
        loaded = source if isinstance(source, LatencyTable) else LatencyTable.load(source)
        workload = load_workload(config.workload if workload is None else workload).with_weights(config.weights)
        costs = TableCosts(LatencyModel(loaded, workload, mode=config.mode))
    else:
        workload, costs = None, NoCosts() if source is None else OwnCosts(source)
        check_without_table(config, costs, evaluator)
    model = costs.model if isinstance(costs, TableCosts) else None
    check_networks(space, trained=evaluator is None, timed=model is not None)
    if model is not None:
        check_answerable(space, model, config)
    certificate = _certify(config, space, model, budgets) if model else None
    timing = _timing(config, model) if model else None
    notes: list[str] = []  # for the user, once nothing is wrong
    config = config.ranked_by(_ranking(config, space, costs, evaluator, notes.append))
    fitter = Fitter(space, costs, certificate.tightened(budgets) if certificate else budgets, _recall_floor(config))
    try:
        fitter.check_possible(config.seed)
    except BudgetError as error:
        raise BudgetError(f"{error}{certificate.text() if certificate else ''}") from None
    dataset = None
    known = known_runs(config.start_from, space) if config.start_from else None
    if config.trials == 0:
        recipe = None
    elif evaluator is None:
        # loads torch, which a user's evaluator may not need
        from flashnas.training.trainer import check_device, check_kernels

        recipe = _recipe(config, space, recipe, known)
        check_device(recipe)
        if config.processes_per_candidate > 1:
            from flashnas.training.distributed import Ranks

            Ranks(size=config.processes_per_candidate).check(recipe)
        check_scalable(space, recipe, own=config.recipe is None)
        if recipe.device == "cuda" and isinstance(space, OperatorSpace):
            smallest = min(space.hidden_sizes)
            trained = recipe.proxy_of(space.build(space.kinds(), smallest))
            check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)
    else:
        recipe = None
        if (config.seeds or 1) > 1 and not takes_seed(evaluator):
            config.wrong("seeds", f"above 1 needs an evaluator with an argument 'seed'; got {config.seeds} and"
                         f" {evaluator_name(evaluator)}")
        if config.processes_per_candidate > 1:
            config.wrong("processes_per_candidate", "are those of trainings, which an evaluator of one's own does not"
                         " do")
    question = Question(config=config, space=space, costs=costs, fitter=fitter, budgets=budgets, workload=workload,
                        recipe=recipe, dataset=dataset, evaluator=evaluator, certificate=certificate, timing=timing,
                        sampler=config.sampler if sampler is None else sampler, started=started, known=known,
                        foresight=None if config.rank_by == "short" else
                        foresight_of(config, space, fitter, recipe, notes.append), notes=tuple(notes))
    if evaluator is not None:
        question = dataclasses.replace(question, rungs=_own_rungs(config, evaluator, costs, note))
    if config.trials:
        question.algorithm()  # its options are checked before text is read
    first = [network for _, network in question.baselines() if network is not None]
    question = dataclasses.replace(question, time_limit=find_time_limit(config, recipe, fitter, first, note))
    if recipe is not None:
        dataset = prepare_dataset(config.data, recipe, config.tokenizer)
        for line in dataset.notes:
            note(line)
        found = _bench(config, recipe, dataset)
        further = functools.partial(_bench, config, recipe, dataset)
        question = dataclasses.replace(question, dataset=dataset, bench=_answers(found),
                                       no_bench=found if isinstance(found, str) else "",
                                       seed_bench=functools.cache(lambda seed: _answers(further(seed))),
                                       rungs=find_rungs(config, recipe, dataset, note))
    if known is not None and config.trials:
        asked = training(recipe, None if dataset is None else dataset.digest, config.seed,
                         None if evaluator is None else evaluator_name(evaluator))
        if reason := difference(training_of(known.runs[0]), asked, "in the run", "in this search"):
            raise RunError(f"{known.runs[0].path}: a search cannot start from its networks: {reason}")
    return question


def _ranking(config: SearchConfig, space: SearchSpace[Any], costs: Costs, evaluator: UserEvaluator | None,
             note: Note) -> str:
    """`full`, or `short` where nothing is known of full trainings, which is noted unless it is plain."""
    why = ("an evaluator scores the networks" if evaluator is not None else
           "its networks are not of flashnas' operators" if not isinstance(space, OperatorSpace) else
           "nothing is known of the latency" if not costs.known else
           "rungs compare the losses of short trainings" if config.rungs else
           "the objectives name no loss" if not set(config.objectives) & set(QUALITY) else "")
    if config.rank_by == "full" and not why:
        return "full"
    if config.trials == 0:
        config.wrong("trials", "0 answers from published trainings alone, which needs --rank-by full"
                     + (f"; here {why}" if why else ""))
    needs = "needs --rank-by full" + (f"; here {why}" if why else "")
    for name in ("min_recall", "evidence"):
        if getattr(config, name) is not None:
            config.wrong(name, needs)
    if RECALL in config.objectives:
        config.wrong("objectives", f"has {RECALL}, which {needs}")
    if config.rank_by == "full" and evaluator is None and isinstance(space, OperatorSpace):
        note(f"ranked by the loss of short trainings, because {why}")
    return "short"


def _recall_floor(config: SearchConfig) -> Callable[[Any], bool] | None:
    """Whether a network keeps the recall that is asked for; None where none is."""
    if (floor := config.min_recall) is None:
        return None
    from flashnas.evidence.recall import load_recall

    model = load_recall()
    return lambda network: bool(model.predict([network.operators])[0][0] >= floor)


def _recipe(config: SearchConfig, space: SearchSpace[Any], given: Recipe | None, known: KnownRuns | None) -> Recipe:
    """The recipe of the trainings: the one given or named, else that of the earlier runs, else the default at the
    space's own width factor."""
    if given is None and config.recipe is None and known is not None and (
            of_runs := known.runs[0].entry("question", "recipe")) is not None:
        recipe = Recipe.from_dict(of_runs)
        return recipe if config.tokens is None else dataclasses.replace(recipe, tokens=config.tokens)
    recipe = Recipe.load(config.recipe or DEFAULT_RECIPE) if given is None else given
    factor = space.width_factor if isinstance(space, OperatorSpace) else None
    if given is None and config.recipe is None and factor is not None:
        recipe = dataclasses.replace(recipe, width_factor=factor)
    return recipe if config.tokens is None else dataclasses.replace(recipe, tokens=config.tokens)


def _bench(config: SearchConfig, recipe: Recipe, dataset: Dataset, further: int | None = None) -> Answers | str:
    """What a bench answers in this search, or why nothing; an empty text where there is none to ask. further: a seed of
    finalists, which the bench need not have.

    Raises:
        BenchError: the bench that the user names cannot be read, or answers nothing.
    """
    if not config.bench:
        return ""
    if needed := task_scores(config.objectives):
        found: Answers | str | None = f"a bench has no {', '.join(needed)}, which the objectives name"
    else:
        found = find_answers(config.bench_table, recipe, dataset=dataset.digest, vocab=dataset.vocab,
                             seed=config.seed if further is None else further)
    if isinstance(found, str) and further is None and config.bench_table is not None:
        raise BenchError(f"bench {config.bench_table}: answers nothing in this search: {found}")
    return found or ""


def _answers(found: Answers | str) -> Answers | None:
    return found if isinstance(found, Answers) else None


def _own_rungs(config: SearchConfig, evaluator: UserEvaluator, costs: Costs, note: Note) -> Rungs:
    """The rungs of a search with the user's evaluator, whose fidelities they are."""
    steps = fidelities_of(evaluator)
    if not config.rungs:
        return Rungs()
    if not steps:
        config.wrong("rungs", "needs an evaluator with the attribute 'fidelities', increasing whole numbers; it is then"
                     " called with a network and one of them")
    if not costs.known:
        config.wrong("rungs", "needs metrics before the evaluation: give table=FUNCTION, network -> latency_ms or a"
                     " mapping of metrics; got table=None")
    return rungs_of(config, steps, "the evaluator's fidelities", note)


def _certify(config: SearchConfig, space: SearchSpace[Any], model: LatencyModel, budgets: Sequence[Budget],
             ) -> Certificate | None:
    """What the table's validation says of its predictions, if a confidence is asked for. Raises TableError without a
    validation, ConfigError without a budget that it could hold."""
    if config.confidence is None:
        return None
    if not any(budget.metric in (*TIMES, *LARGER_IS_BETTER) for budget in budgets):
        raise ConfigError("--confidence needs a budget on a time, such as --budget-ms")
    return Certificate.of(model.table, model.workload, space_name=config.space, space_hash=space.hash,
                          confidence=config.confidence)


def _timing(config: SearchConfig, model: LatencyModel) -> Setup | Program | None:
    """How networks are timed; None where the table's device is not at hand, or nothing is trained. Raises TableError
    with `strict` or `measure_every`."""
    if not config.measure or not config.trials:
        return None
    if config.measure_every is not None and not any(kind.startswith("operator_") for kind in model.table.kinds):
        raise TableError(f"{model.table.path}: --measure-every corrects rows of whole operators, which table"
                         f" {model.table.name} does not have; measure them with flashnas profile")
    from flashnas.profiling.finalists import setup_here  # loads torch

    try:
        return setup_here(model)
    except TableError as error:
        if config.strict or config.measure_every is not None:
            why = "--strict measures the finalists" if config.strict else "--measure-every times networks"
            raise TableError(f"{why}: {error}") from None
        return None

