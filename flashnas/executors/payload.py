"""A job as plain data for another machine, and back. Nothing is pickled: code is named, never sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError, CorpusError, WorkerError
from flashnas.base.registry import load_object
from flashnas.executors.job import Job, evaluator_name


def payload_of(job: Job, corpus: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready. `corpus` says what the dataset of a training was prepared of.

    Raises:
        ConfigError: another machine cannot find the evaluator, or cannot build the network, by its name.
    """
    if job.evaluator is None:
        return {"training": job.to_dict(), "corpus": dict(corpus)}
    name, network = evaluator_name(job.evaluator), job.architecture
    try:
        found = load_object(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not job.evaluator or name.startswith("__main__:"):
        raise ConfigError(f"executor storage: workers find an evaluator by its name, so it must be a function of a"
                          f" module that they can import; got {name}")
    kind = f"{type(network).__module__}:{type(network).__qualname__}"
    if not hasattr(type(network), "from_dict"):
        raise ConfigError(f"executor storage: workers build a network by from_dict(to_dict()), and {kind} has no"
                          " from_dict")
    plain = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)
             if field.name not in ("architecture", "evaluator")}
    return {"evaluator": name, "network": kind, "architecture": network.to_dict(), "plain": plain}


def job_of(payload: Mapping[str, Any], evaluators: Sequence[str]) -> Job:
    """The job again; a training with a dataset that this machine has.

    Args:
        payload: of `payload_of`.
        evaluators: names of the evaluators that may run here. A network must be of the package of one of them.

    Raises:
        WorkerError: in one line, for what this machine lacks.
    """
    if "training" in payload:
        data = payload["training"]
        return Job.from_dict({**data, "dataset": _dataset(data, payload["corpus"])})
    name, kind = payload["evaluator"], payload["network"]
    packages = {"flashnas", *(allowed.partition(":")[0].partition(".")[0] for allowed in evaluators)}
    if name not in evaluators or kind.partition(":")[0].partition(".")[0] not in packages:
        raise WorkerError(f"a job wants {name} for {kind}, which --evaluator does not allow here")
    try:
        network = load_object(kind).from_dict(payload["architecture"])
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                                 for key, value in payload["plain"].items()}
        return Job(architecture=network, evaluator=load_object(name), **plain)
    except Exception as error:  # of the user's code
        line = (str(error).strip().splitlines() or [""])[0]
        raise WorkerError(f"evaluator {name} cannot be used here: {type(error).__name__}: {line}") from None


def _dataset(training: Mapping[str, Any], corpus: Mapping[str, Any]) -> str:
    """The prepared folder of a training on this machine: at its own path, in the cache, or prepared now."""
    from flashnas.data.cache import cache_folder
    from flashnas.data.dataset import Dataset, prepare_dataset
    from flashnas.training.recipe import Recipe

    asked = Path(training["dataset"])
    here = cache_folder() / "datasets" / asked.name
    for folder in (asked, here):
        try:
            return str(Dataset.open(folder).folder)
        except CorpusError:
            continue
    fix = f"copy the folder {asked} of the machine that searches to {here}"
    try:
        made = prepare_dataset(corpus["data"], Recipe.from_dict(training["recipe"]), corpus["tokenizer"])
    except (CorpusError, ConfigError) as error:
        raise WorkerError(f"the corpus {corpus['data']!r} of a job cannot be read here: {error}; {fix}") from None
    if made.digest != asked.name:
        raise WorkerError(f"the corpus {corpus['data']!r} is another text here: its digest is {made.digest}, and the"
                          f" search has {asked.name}; {fix}")
    return str(made.folder)
