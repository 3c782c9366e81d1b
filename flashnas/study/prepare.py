"""From a SearchConfig to a question whose every part is loaded and checked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from flashnas.base.registry import foreign_errors
from flashnas.reuse.known import known_runs
from flashnas.space import load_space
from flashnas.study import checks
from flashnas.study.config import SearchConfig
from flashnas.study.costs import load_certificate, load_costs, load_fitter, load_timing
from flashnas.study.question import Question
from flashnas.study.trainings import check_trainable, recipe_of

Note = Callable[[str], None]


def prepare(
    config: SearchConfig,
    *,
    note: Note,
    evaluator: Any = None,
    space: Any = None,
    table: Any = None,
    workload: Any = None,
    recipe: Any = None,
    sampler: Any = None,
    plan: bool = False,
) -> Question:
    """Load and check all parts of a search. Objects take the place of the names in `config`, as
    `fn.search` describes them. A space whose networks are not `flashnas.Architecture` needs an
    `evaluator`, and no latency table. Raises FlashnasError, in one line, for whatever cannot
    work."""
    started = time.monotonic()
    space = load_space(config.space) if space is None else space
    checks.check_objects(space, sampler, evaluator, table)
    with foreign_errors(("space", space), direct=False):
        checks.check_space(space)
        costs = load_costs(
            config,
            config.table if table is None else table,
            workload,
            evaluated=evaluator is not None,
        )
        model = getattr(costs, "model", None)
        checks.check_networks(space, trained=evaluator is None, timed=model is not None)
        certificate = timing = None
        if model is not None:
            config = dataclasses.replace(
                config, table=config.table if table is None else model.table.name
            )
            checks.check_answerable(space, model, config)
            certificate, timing = load_certificate(config, space, model), load_timing(config, model)
        notes: list[str] = []
        config = config.ranked_by(
            checks.ranking(
                config,
                space,
                costed=costs.known,
                evaluated=evaluator is not None,
                note=notes.append,
            )
        )
        fitter = load_fitter(config, space, costs, certificate, checks.program_holds(config, space))
        known = known_runs(config.start_from, space) if config.start_from else None
        trained = None
        if config.trials and evaluator is None:
            trained = recipe_of(config, space, recipe, known)
            notes += check_trainable(config, space, trained, plan=plan)
        elif config.trials and config.processes_per_candidate > 1:
            config.wrong(
                "processes_per_candidate",
                "are those of trainings, which an evaluator of one's own does not do",
            )
        question = Question(
            config=config,
            space=space,
            costs=costs,
            fitter=fitter,
            recipe=trained,
            evaluator=evaluator,
            sampler=config.sampler if sampler is None else sampler,
            certificate=certificate,
            timing=timing,
            known=known,
            note=note,
            notes=notes,
            started=started,
        )
        _load(question)
        return question


def _load(question: Question) -> None:
    """Whatever takes a while, in this order."""
    question.foresight  # noqa: B018 - it is computed once
    if question.config.min_recall is not None:
        question.foretold  # noqa: B018 - raises where no network keeps that recall
    if question.config.trials:
        question.algorithm()  # its options are checked before text is read
    question.time_limit  # noqa: B018
    question.scores.no_bench  # noqa: B018
    question.scores.check_known(question.evaluator)
