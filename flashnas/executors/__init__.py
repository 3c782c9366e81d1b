"""Where candidates run, by name. A module of an executor is imported when it is chosen; its library
when it starts."""

from __future__ import annotations

from flashnas.base.errors import ConfigError
from flashnas.base.registry import Registry
from flashnas.executors.base import Ended, Executor, NoOptions, Work

__all__ = ["EXECUTORS", "Ended", "Executor", "NoOptions", "Work"]

EXECUTORS: Registry[type[Executor]] = Registry(
    "executor",
    "flashnas.executors",
    {
        "local": "flashnas.executors.local:LocalExecutor",
        "ray": "flashnas.executors.ray:RayExecutor",
    },
    ConfigError,
    "name",
    base="flashnas.executors.base:Executor",
    summaries={
        "local": "Worker processes on this machine, each with one thread or GPU",
        "ray": "Tasks of a Ray cluster: `--executor-option address=HOST:PORT`, or a Ray of this"
        " machine's own",
    },
)
