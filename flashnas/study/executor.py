"""Where the candidates of a search run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from flashnas.base.hints import warn
from flashnas.base.settings import SettingError
from flashnas.executors import EXECUTORS, Executor, Work, executor_options
from flashnas.executors.job import Job, evaluator_name, run_job
from flashnas.executors.local import InProcess
from flashnas.study.checks import any_network
from flashnas.study.config import SearchConfig
from flashnas.study.question import Question


def executor_of(question: Question, note: Callable[[str], None]) -> Executor:
    """The executor that the search asks for; this process for an evaluator that no other one can load. Raises
    ConfigError for what the executor cannot do."""
    config, recipe, dataset = question.config, question.recipe, question.dataset
    gpu = recipe is not None and recipe.device == "cuda"
    devices: tuple[str, ...] = ()
    if gpu:
        from flashnas.training.trainer import visible_devices  # loads torch

        devices = visible_devices()
    work = Work(function=run_job, workers=config.workers, timeout_s=question.time_limit.seconds, gpu=gpu,
                processes=config.processes_per_candidate, devices=devices,
                dataset=None if dataset is None else str(dataset.folder), note=note)
    if config.trials == 0:
        return InProcess(work, None)
    job = question.job(any_network(question.space))
    if EXECUTORS[config.executor].runs_here and not job.portable():
        _check_without_workers(config, job)
        return InProcess(work, None)
    executor = EXECUTORS[config.executor](work, executor_options(config.executor, config.executor_options))
    executor.check(job)
    return executor


def _check_without_workers(config: SearchConfig, job: Job) -> None:
    """Warn that an evaluator runs in this process, since no worker can load it or its networks; raise
    SettingError for a limit that only workers keep."""
    assert job.evaluator is not None
    network = type(job.architecture)
    what = f"the evaluator {evaluator_name(job.evaluator)}"
    if dataclasses.replace(job, architecture=None).portable():
        what = f"the networks {network.__module__}:{network.__qualname__}"
    why, fix = f"worker processes cannot load {what}", "put it into a module of its own"
    if (config.workers or 1) > 1:
        config.wrong("workers", f"must be 1: {why}; {fix}; got {config.workers}")
    if config.candidate_timeout_s is not None:
        config.wrong("candidate_timeout_s", f"needs worker processes: {why}; {fix}; got"
                                            f" {config.candidate_timeout_s:g}")
    for name, value in config.executor_options.items():  # worker_memory_gb
        raise SettingError(config.where, config.setting("executor_options"),
                           f"needs worker processes: {why}; {fix}; got {value}", name)
    warn(f"{why}: the evaluator scores one network after another in this process, without limits of time and"
         f" memory; {fix}")
