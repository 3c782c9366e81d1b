"""What a search opens before its first evaluation: its executor, and the head of run.yaml."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flashnas
from flashnas.executors import EXECUTORS, Executor, Work, make_executor
from flashnas.executors.job import evaluator_name, run_job
from flashnas.executors.local import InProcess
from flashnas.study.checks import any_network, check_without_workers
from flashnas.study.question import Question, table_hash

IN_CYCLES = "fixed by the seed, for any number of workers"       # how candidates follow from the seed
ANY_ORDER = "depends on when workers finish (asynchronous); the same seed gives other candidates"


def executor_of(question: Question, note: Callable[[str], None]) -> Executor:
    """The executor that the search asks for; this process for an evaluator that no other one can load.

    Raises:
        ConfigError: for what the executor cannot do; a SettingError for limits that only worker processes keep.
    """
    config, recipe, dataset = question.config, question.recipe, question.dataset
    if config.trials == 0:
        return InProcess(Work(function=run_job, workers=1, timeout_s=question.time_limit.seconds,
                              run=question.identity().hash, note=note))
    gpu = recipe is not None and recipe.device == "cuda"
    work = Work(function=run_job, workers=config.workers, timeout_s=question.time_limit.seconds, gpu=gpu,
                processes=config.processes_per_candidate,
                devices=_devices() if gpu else (), run=question.identity().hash, storage=config.storage,
                dataset=None if dataset is None else str(dataset.folder),
                corpus={"data": config.data, "tokenizer": config.tokenizer}, note=note)
    job = question.job(any_network(question.space))
    if EXECUTORS[config.executor].runs_here and not job.portable():
        check_without_workers(config, job)
        return InProcess(work)
    executor = make_executor(config.executor, work, config.executor_options)
    executor.check(job)
    return executor


def _devices() -> tuple[str, ...]:
    from flashnas.training.trainer import visible_devices  # loads torch

    return visible_devices()


def run_facts(question: Question, out: Path, command: str, pool: Executor) -> dict[str, Any]:
    """All that was asked, all versions: the head of run.yaml."""
    config, space, model = question.config, question.space, question.model
    recipe, dataset, workload = question.recipe, question.dataset, question.workload
    packages = {name: version(name) for name in ("torch", "optuna", "numpy", "pandas", "tokenizers")}
    scored: dict[str, Any] = ({"evaluator": evaluator_name(question.evaluator)} if question.evaluator is not None else
              {} if recipe is None or dataset is None else
              {**recipe.to_dict(), "corpus": dataset.source, "corpus_digest": dataset.folder.name,
               "corpus_notes": list(dataset.notes), "vocabulary": dataset.vocab})
    identity = question.identity()
    table = None if identity.table is None else {"name": identity.table} if model is None else {
        "name": model.table.name, "device": model.table.device.label or model.table.name, "stack": model.table.stack,
        "mode": model.table.default_mode, "weights": model.dtype, "hash": table_hash(model.table)}
    return {
        "flashnas": flashnas.__version__, "name": out.name, "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "finished": None, "seconds": None,
        "space": {"name": space.name, "path": str(space.path), "hash": space.hash},
        "table": table, "workload": None if workload is None else workload.to_dict(),
        "budgets": config.budgets, "confidence": config.confidence, "objectives": list(config.objectives),
        "sampler": identity.sampler, "trajectory": ANY_ORDER if config.asynchronous else IN_CYCLES,
        "rank_by": config.rank_by, "foresight": None if question.foresight is None else question.foresight.to_dict(),
        "seed": config.seed, "trials_asked": config.trials, "proxy": scored,
        "bench": None if question.bench is None else question.bench.to_dict(),
        "rungs": list(question.rungs.tokens), "seeds": config.seeds,
        "start_from": None if question.known is None else question.known.to_dict(),
        "host": {"cpu": platform.processor() or platform.machine(), "executor": pool.name,
                 "workers": pool.shown_workers, "python": platform.python_version(), **packages},
    }
