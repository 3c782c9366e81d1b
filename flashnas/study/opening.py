"""What a search opens before its first evaluation: its folder, with its identity and the head of run.yaml,
its record and its state."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flashnas
from flashnas.base.registry import installed_plugins
from flashnas.executors import Executor
from flashnas.runs.folder import RunFolder
from flashnas.runs.identity import Identity, device_facts, table_facts, table_hash
from flashnas.runs.snapshot import Progress
from flashnas.study.asynchronous import Asynchronous
from flashnas.study.loop import Cycles, State
from flashnas.study.question import Question
from flashnas.study.record import Record

IN_CYCLES = "fixed by the seed, for any number of workers"       # how candidates follow from the seed
ANY_ORDER = "depends on when workers finish (asynchronous); the same seed gives other candidates"


@contextlib.contextmanager
def opened(question: Question, executor: Executor, out: Path, *, resume: bool, progress: Progress,
           command: str) -> Iterator[State]:
    with RunFolder(out, identity=identity_of(question), facts=run_facts(question, out, command, executor),
                   resume=resume) as folder:
        record = Record(question, folder, progress, side_by_side(question, executor, progress.note))
        yield (Asynchronous if question.config.asynchronous else Cycles)(record)


def side_by_side(question: Question, executor: Executor, note: Callable[[str], None]) -> int:
    """How many workers evaluate at one time. A cycle keeps no more busy than it has candidates, which is
    noted."""
    workers, size = executor.workers, question.config.cycle_size
    if question.config.asynchronous or workers <= size:
        return workers
    if executor.shown_workers == workers:
        note(f"cycles of {size} candidates keep at most {size} of {workers} workers busy; --cycle-size"
             f" {workers} or --asynchronous keeps all")
    return size


def identity_of(question: Question) -> Identity:
    """All that fixes the trajectory. A further option is part of it where it differs from its default, so
    that an older run goes on."""
    model, recipe, dataset, rungs = question.model, question.recipe, question.dataset, question.rungs
    options = question.config.question()
    evaluator, function = question.function_names
    record: dict[str, Any] = {
        "space": question.space.name, "space_hash": question.space.hash,
        "table": options["table"] if model else function,
        "table_hash": table_hash(model.table) if model else None,
        "device": device_facts(model.table) if model else None, "mode": options["mode"],
        "workload": model.workload.to_dict() if model else None, "budgets": options["budgets"],
        "confidence": options["confidence"],
        "margins": dict(question.certificate.margins) if question.certificate else None,
        "objectives": options["objectives"], "sampler": question.sampler_name,
        **{name: options[name] for name in ("sampler_options", "cycle_size", "seed", "baselines", "rank_by")},
        "recipe": None if recipe is None else recipe.to_dict(),
        "data": None if dataset is None else options["data"],
        "tokenizer": None if dataset is None else options["tokenizer"],
        "corpus": None if dataset is None else dataset.folder.name,
        "evaluator": evaluator}
    if rungs.tokens:
        record |= {"rungs": rungs.tokens, "rung_chance": rungs.chance, "rung_curves": rungs.digest}
    for name, part in (("bench", question.scores.bench), ("start_from", question.known),
                       ("foresight", question.foresight)):
        if part is not None:
            record[name] = part.digest
    return Identity(record | {name: value for name, value in options.items()
                              if name not in (*record, "rungs", "rung_chance")
                              and value != question.config.setting(name).default})


def run_facts(question: Question, out: Path, command: str, executor: Executor) -> dict[str, Any]:
    """All that was asked, all versions: the head of run.yaml."""
    config, space, model = question.config, question.space, question.model
    recipe, dataset, bench = question.recipe, question.dataset, question.scores.bench
    packages = {name: version(name) for name in ("torch", "optuna", "numpy", "pandas", "tokenizers")}
    evaluator, function = question.function_names
    scored: dict[str, Any] = {}
    if evaluator is not None:
        scored = {"evaluator": evaluator}
    elif recipe is not None and dataset is not None:
        scored = {**recipe.to_dict(), "corpus": dataset.source, "corpus_digest": dataset.folder.name,
                  "corpus_notes": list(dataset.notes), "vocabulary": dataset.vocab}
    table: dict[str, Any] | None = None if function is None else {"name": function}
    if model is not None:
        table = {**table_facts(model), "hash": table_hash(model.table)}
    return {
        "flashnas": flashnas.__version__, "name": out.name, "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "finished": None, "seconds": None,
        "space": {"name": space.name, "path": str(space.path), "hash": space.hash},
        "table": table, "workload": None if model is None else model.workload.to_dict(),
        "budgets": config.budgets, "confidence": config.confidence, "objectives": list(config.objectives),
        "sampler": question.sampler_name,
        "trajectory": ANY_ORDER if config.asynchronous else IN_CYCLES, "rank_by": config.rank_by,
        "foresight": None if question.foresight is None else question.foresight.to_dict(),
        "seed": config.seed, "trials_asked": config.trials, "proxy": scored,
        "bench": None if bench is None else bench.to_dict(),
        "rungs": list(question.rungs.tokens), "seeds": config.seeds,
        "start_from": None if question.known is None else question.known.to_dict(),
        "host": {"cpu": platform.processor() or platform.machine(), "executor": executor.name,
                 "workers": executor.shown_workers, "python": platform.python_version(), **packages},
        "plugins": installed_plugins(),
    }
