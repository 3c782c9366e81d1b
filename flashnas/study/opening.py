"""What a search opens before its first evaluation: its executor, and its folder with its identity
and the head of run.yaml."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flashnas
from flashnas.base.registry import installed_plugins, is_shipped, shipped_names
from flashnas.base.settings import SettingError, settings_of
from flashnas.base.text import warn
from flashnas.executors import EXECUTORS, Executor, Work
from flashnas.executors.job import Job, evaluator_name, run_job
from flashnas.executors.local import InProcess
from flashnas.run_folder.folder import RunFolder
from flashnas.run_folder.layout import Identity, device_facts, table_facts, table_hash
from flashnas.study.config import SearchConfig
from flashnas.study.problem import Problem
from flashnas.study.progress import Progress
from flashnas.study.record import Record

# options that name files
FILES = ("space", "table", "recipe", "data", "tokenizer", "evidence", "times", "start_from")


@contextlib.contextmanager
def opened(
    problem: Problem,
    executor: Executor,
    out: Path,
    *,
    resume: bool,
    progress: Progress,
    command: str,
) -> Iterator[Record]:
    with RunFolder(
        out,
        identity=identity_of(problem),
        facts=run_facts(problem, out, command, executor),
        resume=resume,
        encode=problem.space.encode,
    ) as folder:
        yield Record(problem, folder, progress, side_by_side(problem, executor, progress.note))


def executor_of(problem: Problem, note: Callable[[str], None]) -> Executor:
    """The executor that the search asks for; this process for an evaluator that no other one can
    load. Raises ConfigError for what the executor cannot do."""
    config, recipe, dataset = problem.config, problem.recipe, problem.dataset
    gpu = recipe is not None and recipe.device == "cuda"
    devices: tuple[str, ...] = ()
    if gpu:
        from flashnas.training.trainer import visible_devices  # loads torch

        devices = visible_devices()
    work = Work(
        function=run_job,
        workers=config.workers,
        timeout_s=problem.time_limit.seconds,
        gpu=gpu,
        devices=devices,
        dataset=None if dataset is None else str(dataset.folder),
        note=note,
    )
    if config.trials == 0:
        return InProcess(work, None)
    job = problem.job(problem.space.any_network())
    if EXECUTORS[config.executor].runs_here and not job.portable():
        _check_without_workers(config, job)
        return InProcess(work, None)
    chosen = EXECUTORS[config.executor]
    executor = chosen(work, chosen.read_options(config.executor_options))
    executor.check(job)
    return executor


def _check_without_workers(config: SearchConfig, job: Job) -> None:
    """Warn that an evaluator runs in this process, since no worker can load it or its networks;
    raise SettingError for a limit that only workers keep."""
    assert job.evaluator is not None
    network = type(job.architecture)
    what = f"the evaluator {evaluator_name(job.evaluator)}"
    if dataclasses.replace(job, architecture=None).portable():
        what = f"the networks {network.__module__}:{network.__qualname__}"
    why, fix = f"worker processes cannot load {what}", "put it into a module of its own"
    if (config.workers or 1) > 1:
        config.wrong("workers", f"must be 1: {why}; {fix}; got {config.workers}")
    if config.candidate_timeout_s is not None:
        config.wrong(
            "candidate_timeout_s",
            f"needs worker processes: {why}; {fix}; got {config.candidate_timeout_s:g}",
        )
    for name, value in config.executor_options.items():  # worker_memory_gb
        raise SettingError(
            config.where,
            config.setting("executor_options"),
            f"needs worker processes: {why}; {fix}; got {value}",
            name,
        )
    warn(
        f"{why}: the evaluator scores one network after another in this process, without limits of"
        f" time and memory; {fix}"
    )


def side_by_side(problem: Problem, executor: Executor, note: Callable[[str], None]) -> int:
    """How many workers evaluate at one time. A cycle keeps no more busy than it has candidates,
    which is noted."""
    workers, size = executor.workers, problem.config.cycle_size
    if workers > size and executor.shown_workers == workers:
        note(
            f"cycles of {size} candidates keep at most {size} of {workers} workers busy; cycle_size"
            f" {workers} keeps all"
        )
    return min(workers, size)


def identity_of(problem: Problem) -> Identity:
    """All that fixes the trajectory: options, and the contents of what they name."""
    model, recipe, dataset = problem.model, problem.recipe, problem.dataset
    options = problem.config.question()
    evaluator, function = problem.function_names
    record = options | {
        "space": problem.space.name,
        "space_hash": problem.space.hash,
        "table": options["table"] if model else function,
        "table_hash": table_hash(model.table) if model else None,
        "device": device_facts(model.table) if model else None,
        "workload": model.workload.to_dict() if model else None,
        "sampler": problem.sampler_name,
        "recipe": None if recipe is None else recipe.to_dict(),
        "data": None if dataset is None else options["data"],
        "tokenizer": None if dataset is None else options["tokenizer"],
        "corpus": None if dataset is None else dataset.folder.name,
        "evaluator": evaluator,
        "times": model.observed.get("digest") if model else None,
    }
    for name, part in (("start_from", problem.earlier), ("scorer", problem.scorer)):
        record[name] = None if part is None else part.digest
    return Identity(record)


def run_facts(problem: Problem, out: Path, command: str, executor: Executor) -> dict[str, Any]:
    """All that was asked, all versions: the head of run.yaml."""
    config, space, model = problem.config, problem.space, problem.model
    recipe, dataset = problem.recipe, problem.dataset
    packages = {
        name: version(name) for name in ("torch", "optuna", "numpy", "pandas", "tokenizers")
    }
    evaluator, function = problem.function_names
    scored: dict[str, Any] = {}
    if evaluator is not None:
        scored = {"evaluator": evaluator}
    elif recipe is not None and dataset is not None:
        scored = {
            **recipe.to_dict(),
            "corpus": dataset.source,
            "corpus_digest": dataset.folder.name,
            "corpus_notes": list(dataset.notes),
            "vocabulary": dataset.vocab,
        }
    table: dict[str, Any] | None = None if function is None else {"name": function}
    if model is not None:
        table = {**table_facts(model), "hash": table_hash(model.table)}
    return {
        "flashnas": flashnas.__version__,
        "name": out.name,
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "finished": None,
        "seconds": None,
        "space": {
            "name": space.name,
            "hash": space.hash,
            **({} if is_shipped(space.path, "search_spaces") else {"path": str(space.path)}),
        },
        "table": table,
        "workload": None if model is None else model.workload.to_dict(),
        "budgets": config.budgets,
        "objectives": list(config.objectives),
        "sampler": problem.sampler_name,
        "rank_by": config.rank_by,
        "scorer": None if problem.scorer is None else problem.scorer.to_dict(),
        "seed": config.seed,
        "trials_asked": config.trials,
        "proxy": scored,
        "start_from": None if problem.earlier is None else problem.earlier.to_dict(),
        "host": {
            "cpu": platform.processor() or platform.machine(),
            "executor": executor.name,
            "workers": executor.shown_workers,
            "python": platform.python_version(),
            **packages,
        },
        "plugins": installed_plugins(),
    }


def options_given(config: SearchConfig) -> dict[str, Any]:
    """The options that differ from their defaults, for the record of a run, which may be continued
    from another folder: paths of files are absolute."""
    kind: Any = type(config)
    default = kind()
    return {
        setting.name: from_anywhere(setting.name, value)
        for setting in settings_of(kind)
        if (value := getattr(config, setting.name)) != getattr(default, setting.name)
    }


def from_anywhere(name: str, value: Any) -> Any:
    """The value of an option with relative paths made absolute, as far as it names files that are
    there.
    """
    if name not in FILES or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(from_anywhere(name, part) for part in value)
    joined = name == "data" and not os.path.exists(value.partition("#")[0])
    return "+".join(_absolute(name, part) for part in (value.split("+") if joined else [value]))


def _absolute(name: str, text: str) -> str:
    path, mark, column = text.partition("#") if name == "data" else (text, "", "")
    if not os.path.exists(path):
        return text
    from flashnas.data.corpus import NAMED
    from flashnas.training.recipe import shipped_recipes

    names: Mapping[str, Collection[str]] = {
        "data": NAMED,
        "recipe": shipped_recipes(),
        "space": shipped_names("search_spaces", ".yaml"),
        "table": shipped_names("latency_tables", "meta.yaml"),
    }
    return text if text in names.get(name, ()) else os.path.abspath(path) + mark + column
