"""From a SearchConfig to a question whose every part is loaded and checked; nothing is written, nothing
trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError, RunError
from flashnas.base.registry import foreign_errors
from flashnas.executors.job import UserEvaluator, evaluator_name, takes_seed
from flashnas.latency.table import LatencyTable
from flashnas.reuse.known import difference, known_runs, training, training_of
from flashnas.search import SearchAlgorithm
from flashnas.space import SearchSpace, load_space
from flashnas.study.checks import check_answerable, check_networks, check_space, ranking
from flashnas.study.config import SearchConfig
from flashnas.study.costs import Measuring, load_costs, load_fitter, load_measuring
from flashnas.study.foresight import foresight_of
from flashnas.study.question import Question
from flashnas.study.recipe import check_trainable, recipe_of

if TYPE_CHECKING:
    from flashnas.latency.costs import CostFunction
    from flashnas.latency.workload import Workload
    from flashnas.training.recipe import Recipe

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
    if isinstance(table, LatencyTable):
        config = dataclasses.replace(config, table=table.name)
    with foreign_errors(("space", space), direct=False):
        check_space(space)
        costs = load_costs(config, config.table if table is None else table, workload, evaluator)
        parts: dict[str, Any] = {"started": started, "note": note, "space": space, "costs": costs,
                                 "sampler": config.sampler if sampler is None else sampler, "evaluator": evaluator}
        question = _question(config, parts, recipe)
        _check(question)
        return question


def _question(config: SearchConfig, parts: dict[str, Any], recipe: Recipe | None) -> Question:
    """The question of these parts and of those that follow from them."""
    space, costs, evaluator = parts["space"], parts["costs"], parts["evaluator"]
    model = getattr(costs, "model", None)
    check_networks(space, trained=evaluator is None, timed=model is not None)
    if model is not None:
        check_answerable(space, model, config)
    measuring = Measuring() if model is None else load_measuring(config, space, model)
    notes: list[str] = []  # for the user, once nothing is wrong
    config = config.ranked_by(ranking(config, space, costs, evaluator, notes.append))
    fitter = load_fitter(config, space, costs, measuring.certificate)
    known = known_runs(config.start_from, space) if config.start_from else None
    trained = None
    if config.trials and evaluator is None:
        trained = recipe_of(config, space, recipe, known)
        check_trainable(config, space, trained)
    elif config.trials:
        _check_evaluator(config, evaluator)
    foresight = None if config.rank_by == "short" else foresight_of(config, space, fitter, trained, notes.append)
    return Question(config=config, fitter=fitter, recipe=trained, certificate=measuring.certificate,
                    timing=measuring.timing, foresight=foresight, known=known, notes=tuple(notes), **parts)


def _check_evaluator(config: SearchConfig, evaluator: UserEvaluator) -> None:
    """Raise SettingError for what an evaluator does not do."""
    if (config.seeds or 1) > 1 and not takes_seed(evaluator):
        config.wrong("seeds", f"above 1 needs an evaluator with an argument 'seed'; got {config.seeds} and"
                     f" {evaluator_name(evaluator)}")
    if config.processes_per_candidate > 1:
        config.wrong("processes_per_candidate", "are those of trainings, which an evaluator of one's own does not"
                     " do")


def _check(question: Question) -> None:
    """Load what takes a while, in the order of its cost, and compare it with the earlier runs."""
    config, known = question.config, question.known
    if question.evaluator is not None:
        question.rungs  # noqa: B018 - loads and checks
    if config.trials:
        question.algorithm()  # its options are checked before text is read
    question.time_limit  # noqa: B018
    dataset = question.dataset
    question.scores.no_bench  # noqa: B018
    question.rungs  # noqa: B018
    if known is not None and config.trials:
        asked = training(question.recipe, None if dataset is None else dataset.digest, config.seed,
                         None if question.evaluator is None else evaluator_name(question.evaluator))
        if reason := difference(training_of(known.runs[0]), asked, "in the run", "in this search"):
            raise RunError(f"{known.runs[0].path}: a search cannot start from its networks: {reason}")
