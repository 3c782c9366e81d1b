"""Where candidates run, by name. A module of an executor is imported when it is chosen; its library
when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.registry import Registry
from flashnas.base.settings import Setting, settings_of
from flashnas.base.text import did_you_mean
from flashnas.executors.base import Ended, Executor, NoOptions, Work

__all__ = ["EXECUTORS", "Ended", "Executor", "NoOptions", "Work", "executor_options"]

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


def executor_options(name: str, values: Mapping[str, Any]) -> Any:
    """The checked options of an executor; raises ConfigError for an unknown executor or option, or
    a wrong value, a SettingError with the option's name as key."""
    options: Any = EXECUTORS[name].Options
    settings: dict[str, Setting] = {setting.name: setting for setting in settings_of(options)}
    for key in values:
        if key not in settings:
            allowed = ", ".join(settings) or "none"
            raise ConfigError(
                f"executor {name} has no option {key!r}{did_you_mean(key, settings)}; allowed:"
                f" {allowed}"
            )
    return options.build(**values)
