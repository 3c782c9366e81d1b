"""The head of run.yaml: what was asked, what the options named, and all versions."""

import os
import platform
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flashnas
from flashnas.base.documents import COMPACT, fingerprint
from flashnas.base.registry import code_name, installed_plugins, is_shipped, shipped_names
from flashnas.base.settings import settings_of
from flashnas.latency.prediction import LatencyModel
from flashnas.study.config import SearchConfig
from flashnas.study.problem import Problem, proposer

# options that name files
FILES = (
    "space",
    "table",
    "as_good_as",
    "recipe",
    "data",
    "tokenizer",
    "evidence",
    "times",
    "start_from",
    "again",
)
PACKAGES = ("torch", "optuna", "numpy", "pandas", "tokenizers")
# of device.yaml, what estimates depend on
LIMITS = ("peak_flops", "bandwidth_bytes_s", "memory_bytes", "launch_us", "bandwidth_share")
# options that fix the trajectory; the others enter the identity of a run by what they name, or not
ASKED = tuple(setting.name for setting in settings_of(SearchConfig) if setting.identity)


def run_head(problem: Problem, out: Path, command: str) -> dict[str, Any]:
    """The options stand once, in `options`; beside them are the contents of what they name."""
    space, model, trainings = problem.space, problem.model, problem.trainings
    costs = getattr(problem.costs, "function", None)  # of the user's
    table = None if costs is None else {"name": code_name(costs)}
    evaluator, recipe = (
        (None, None) if trainings is None else (trainings.evaluator, trainings.recipe)
    )
    scorer, earlier = problem.scorer, problem.earlier
    dataset = None if trainings is None else trainings.dataset
    return {
        "flashnas": flashnas.__version__,
        "name": out.name,
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "finished": None,
        "seconds": None,
        "options": options_given(problem.config),
        "space": {
            "name": space.name,
            "hash": fingerprint(space.to_dict(), COMPACT),
            **({} if is_shipped(space.path, "search_spaces") else {"path": str(space.path)}),
        },
        "table": table if model is None else table_facts(model),
        "workload": None if model is None else model.workload.to_dict(),
        "objectives": list(problem.objectives),
        "scorer": None if scorer is None else {**scorer.to_dict(), "digest": scorer.digest},
        "start_from": None if earlier is None else earlier.to_dict(),
        "sampler": proposer(problem).name,
        "schedule": None if trainings is None else dict(problem.schedule),
        "evaluator": None if evaluator is None else code_name(evaluator),
        "recipe": None if recipe is None else recipe.to_dict(),
        "corpus": None
        if dataset is None
        else {
            "source": dataset.source,
            "digest": dataset.folder.name,
            "notes": list(dataset.notes),
            "vocabulary": dataset.vocab,
        },
        "host": {
            "cpu": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "plugins": installed_plugins(),
    }


def options_given(config: SearchConfig) -> dict[str, Any]:
    """The options that hold something, for the record of a run, which may be continued from another
    folder: paths of files are absolute."""
    values = {setting.name: getattr(config, setting.name) for setting in settings_of(SearchConfig)}
    return {
        name: from_anywhere(name, value)
        for name, value in values.items()
        if value not in (None, {}, ())
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
        "space": shipped_names("search_spaces"),
        "table": shipped_names("latency_tables"),
    }
    return text if text in names.get(name, ()) else os.path.abspath(path) + mark + column


def table_facts(model: LatencyModel) -> dict[str, Any]:
    """What run.yaml says of the table and of what answers by it."""
    table = model.table
    hashes = {kind: entry["sha256"] for kind, entry in table.meta["kinds"].items()}
    return {
        "name": table.name,
        "device": table.device.label or table.name,
        "stack": table.stack,
        "mode": table.mode,
        "weights": model.dtype,
        "calibration": model.calibration.name,
        "program": model.calibration.program,
        "observed": dict(model.observed),
        # changes with any row and with the calibration
        "hash": fingerprint([hashes, table.calibration]),
        "limits": {name: getattr(table.device, name) for name in LIMITS},
    }
