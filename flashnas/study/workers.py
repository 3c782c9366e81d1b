"""The workers of a search: the executor that is asked for, and what it can run."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from flashnas.base.registry import code_name
from flashnas.base.settings import SettingError
from flashnas.executors import EXECUTORS, Executor, Work
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import InProcess
from flashnas.study.config import SearchConfig
from flashnas.study.trainings import Trainings


def executor_of(
    config: SearchConfig, trainings: Trainings, network: Any, note: Callable[[str], None]
) -> Executor:
    """The executor that the search asks for; this process for an evaluator that no other one can
    load. network: some network of the space. Raises ConfigError for what the executor cannot do."""
    recipe, dataset = trainings.recipe, trainings.dataset
    gpu = recipe is not None and recipe.device == "cuda"
    devices: tuple[str, ...] = ()
    if gpu:
        from flashnas.training.trainer import visible_devices  # loads torch

        devices = visible_devices()
    work = Work(
        function=run_job,
        workers=config.workers,
        timeout_s=trainings.timeout_s,
        gpu=gpu,
        devices=devices,
        dataset=None if dataset is None else str(dataset.folder),
        note=note,
    )
    job = trainings.job(network)
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
    what = f"the evaluator {code_name(job.evaluator)}"
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


def note_idle_workers(executor: Executor, size: int, note: Callable[[str], None]) -> None:
    """A line where cycles of so many candidates keep fewer workers busy than there are."""
    workers = executor.workers
    if workers > size and executor.shown_workers == workers:
        note(
            f"cycles of {size} candidates keep at most {size} of {workers} workers busy; cycle_size"
            f" {workers} keeps all"
        )


def warn(text: str) -> None:
    """Warn the user of the API, at the line of their own code that called flashnas."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while (
        frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "flashnas"
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
