"""A job as plain data for another machine, and back. Nothing is pickled: code is named, never sent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError, CorpusError, FlashnasError, PluginError, WorkerError
from flashnas.base.registry import load_object
from flashnas.executors.attempt import reason_of
from flashnas.executors.job import Job, evaluator_name
from flashnas.training.recipe import Recipe

PLAIN = {"dataset": str, "recipe": dict, "seed": int, "checkpoints": str, "pause_tokens": int,
         "processes": int}


class PayloadError(FlashnasError):
    """A row of the database that is not a job; no machine can run it."""


def payload_of(job: Job, corpus: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready. corpus: what the dataset of a training was prepared of. Raises ConfigError if another
    machine cannot find the evaluator, or cannot build the network, by its name."""
    if job.evaluator is None:
        return {"training": job.to_dict(), "corpus": dict(corpus)}
    name, network = evaluator_name(job.evaluator), job.architecture
    try:
        function = load_object(name)
    except (ImportError, AttributeError, ValueError):
        function = None
    if function is not job.evaluator or name.startswith("__main__:"):
        raise ConfigError("executor storage: workers find an evaluator by its name, so it must be a function"
                          f" of a module that they can import; got {name}")
    kind = f"{type(network).__module__}:{type(network).__qualname__}"
    if not hasattr(type(network), "from_dict"):
        raise ConfigError(f"executor storage: workers build a network by from_dict(to_dict()), and {kind} has"
                          " no from_dict")
    plain = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)
             if field.name not in ("architecture", "evaluator")}
    return {"evaluator": name, "network": kind, "architecture": network.to_dict(), "plain": plain}


def job_of(text: str, evaluators: Sequence[str], processes: int = 1) -> Job:
    """The job again of the JSON of a `payload_of`; a training with a dataset that this machine has. A network
    must be of the package of one of the evaluators that may run here. Raises PayloadError if the text is not
    that of a job, WorkerError in one line for what this machine lacks."""
    try:
        payload = json.loads(text)
        name, kind, corpus = payload.get("evaluator", ""), str(payload.get("network")), payload.get("corpus")
        data: dict[str, Any] = {"architecture": None, **payload["plain"]} if name else payload["training"]
        job = Job(**_tuples(data)) if name else Job.from_dict(data)
        for field, type_ in PLAIN.items():
            if type(getattr(job, field)) is not type_:
                raise TypeError(f"{field} must be {type_.__name__}")
        if job.evaluator is not None or job.processes > processes:
            raise ValueError("it asks for more than its row says")
        recipe = Recipe.from_dict(job.recipe)
    except PluginError:
        raise
    except Exception as error:  # whatever was written there
        raise PayloadError(f"the payload is not that of a job: {reason_of(error)}") from None
    if not name:
        return dataclasses.replace(job, dataset=_dataset(Path(job.dataset), recipe, corpus))
    packages = {"flashnas", *(allowed.partition(":")[0].partition(".")[0] for allowed in evaluators)}
    if name not in evaluators or kind.partition(":")[0].partition(".")[0] not in packages:
        raise WorkerError(f"a job wants {name} for {kind}, which --evaluator does not allow here")
    try:
        return dataclasses.replace(job, architecture=load_object(kind).from_dict(payload["architecture"]),
                                   evaluator=load_object(name))
    except Exception as error:  # of the user's code
        raise WorkerError(f"evaluator {name} cannot be used here: {reason_of(error)}") from None


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def _dataset(folder: Path, recipe: Recipe, corpus: Any) -> str:
    """The prepared folder of a training on this machine: at its own path, in the cache, or prepared now."""
    from flashnas.data.dataset import Dataset, cached_dataset, prepare_dataset

    try:
        return str(Dataset.find(folder).folder)
    except CorpusError:
        fix = f"copy the folder {folder} of the machine that searches to {cached_dataset(folder.name)}"
    try:
        made = prepare_dataset(corpus["data"], recipe, corpus["tokenizer"])
    except (CorpusError, ConfigError) as error:
        raise WorkerError(f"the corpus {corpus['data']!r} of a job cannot be read here: {error};"
                          f" {fix}") from None
    if made.digest != folder.name:
        raise WorkerError(f"the corpus {corpus['data']!r} is another text here: its digest is {made.digest},"
                          f" and the search has {folder.name}; {fix}")
    return str(made.folder)
